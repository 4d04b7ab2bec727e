"""The workloads of losses for instance segmentation: classes that are rarely seen, and masks."""

from __future__ import annotations

import torch

from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload
from fastloss.compat import mmdet


def long_tailed(source: Source, shape: Shape) -> Inputs:
    """Scores of objects (N, C + 2), of which the last two are not of classes, and counts of the
    classes, from 1 to some 10,000."""
    scores = source.normal(*shape, std=2.0)[:, :-2]
    rows, classes = scores.shape
    count = source.uniform(classes).pow(4).mul(1e4).ceil()
    labels = torch.multinomial(count, rows, replacement=True, generator=source.generator)
    weight = source.uniform(rows, low=0.1)
    named = {"label_weights": weight, "cum_samples": count, "num_classes": classes}
    return Inputs((scores, labels), {**named, "p": 0.8, "q": 2.0, "eps": 1e-2})


def masks(source: Source, shape: Shape) -> Inputs:
    """Logits of masks (N, P) at points, and the masks there, float, a third of them 1 and some
    between 0 and 1."""
    target = source.uniform(*shape, low=-6.0, high=4.0).clamp(0, 1)
    return Inputs((source.normal(*shape, std=2.0) + 2.0 * target, target))


def _dice(name: str, reason: str, *, squared: bool) -> Workload:
    return Workload(
        name=name,
        stem="mask_dice",
        call="mask_dice_loss",
        options={"squared": squared, "eps": 1e-3},
        make_inputs=masks,
        # The masks of one batch of Mask2Former: 112 x 112 points each; and of 64 batches.
        sizes={"small": (100, 12544), "large": (6400, 12544)},
        reason=reason,
        upstream=(Upstream("mmdet", "DiceLoss", {"naive_dice": not squared}),),
    )


WORKLOADS = (
    Workload(
        name="seesaw",
        stem="seesaw",
        call="seesaw_ce_loss",
        options={},
        make_inputs=long_tailed,
        # The regions of two images and the 1203 classes of LVIS; 64 times as many.
        sizes={"small": (1024, 1205), "large": (65536, 1205)},
        reason="classes of LVIS: factors of all rows and classes, and of all pairs of classes",
        upstream=(Upstream("mmdet", "seesaw_ce_loss"),),
        ours=mmdet.seesaw_ce_loss,
        reads=2,
    ),
    _dice("mask_dice", "V-Net's form, with squares in the divisor", squared=True),
    _dice("mask_dice_naive", "the form of DETR's successors", squared=False),
)
