"""The workloads of losses whose weights follow from counts or sums over the whole batch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench import inputs
from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload
from fastloss.compat import mmdet


def _valid(source: Source, like: Tensor) -> Tensor:
    """Weights 0 or 1: 1 in 10 elements is of an anchor between objects and background."""
    return (source.uniform(*like.shape) < 0.9).float()


def classes(source: Source, shape: Shape) -> Inputs:
    """Logits, one-hot targets and weights (N, C)."""
    logits, target = inputs.dense_classes(source, shape).arguments
    return Inputs((logits, target, _valid(source, logits)))


def deltas(source: Source, shape: Shape) -> Inputs:
    """Encoded boxes, their targets and weights (N, 4); errors of all sizes around mu."""
    target = source.normal(*shape)
    pred = target + source.normal(*shape, std=0.05)
    return Inputs((pred, target, _valid(source, pred)))


def scores(source: Source, shape: Shape) -> Inputs:
    """Logits of N regions for C classes, the last one objectness, and class ids."""
    labels = source.labels(shape[0], shape[1] - 1, 0.25)
    return Inputs((source.normal(*shape, mean=-3.0, std=1.5), labels))


@functools.cache
def _module(loss: type[nn.Module], device: torch.device, **options: Any) -> nn.Module:
    return loss(**options).to(device)


def harmonized(
    loss: type[nn.Module], pred: Tensor, target: Tensor, weight: Tensor, **options: Any
) -> Tensor:
    return _module(loss, pred.device, **options)(pred, target, weight)


def equalized(loss: type[nn.Module], cls_score: Tensor, label: Tensor, **options: Any) -> Tensor:
    """A class less than columns: the last is objectness."""
    options["num_classes"] = cls_score.shape[1] - 1
    return _module(loss, cls_score.device, **options)(cls_score, label)


def _harmonized(
    name: str, call: str, reason: str, sizes: Mapping[str, Shape], **options: Any
) -> Workload:
    return Workload(
        name=name,
        stem="gradient_harmonized",
        call=call,
        options=options,
        make_inputs=classes if name == "GHMC" else deltas,
        sizes=sizes,
        reason=reason,
        upstream=(Upstream("mmdet", name, options),),
        ours=functools.partial(harmonized, getattr(mmdet, name)),
        reduces=False,
        reads=2,
        # torch.compile's exponentials put an element near an edge into the other bin.
        tolerance=1e-3,
    )


WORKLOADS = (
    _harmonized(
        "GHMC",
        "ghm_classification_loss",
        "classification in 30 bins of gradient length, RetinaNet with GHM",
        {"small": (8192, 80), "large": (200_000, 80)},
        bins=30,
    ),
    _harmonized(
        "GHMR",
        "ghm_regression_loss",
        "box regression in 10 bins of gradient length, RetinaNet with GHM",
        {"small": (65_536, 4), "large": (4_000_000, 4)},
        bins=10,
        mu=0.02,
    ),
    Workload(
        name="EQLV2",
        stem="equalization",
        call="equalization_loss",
        # With gamma 0 the weights do not depend on the calls before; the work is the same.
        options={"gamma": 0},
        make_inputs=scores,
        # 1024 regions for the 1203 classes of LVIS and objectness: two images.
        sizes={"small": (1024, 1204), "large": (32_768, 1204)},
        reason="1203 classes of LVIS, whose gradients are collected",
        upstream=(Upstream("mmdet", "equalized", {"gamma": 0}),),
        ours=functools.partial(equalized, mmdet.EQLV2Loss),
        reduces=False,
    ),
)
