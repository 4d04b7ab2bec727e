"""The workloads as data: what is called, on what, why that size, and which upstream class does the
same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bench import (
    box_sets,
    cross_entropy,
    detection,
    inputs,
    instances,
    matching,
    mmdet,
    rows,
    segmentation,
    tables,
    tracking,
    transport,
)
from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload

TERMS = "segmentation_terms"
# Suites, and what their tables and plots are headed with.
SUITES = {
    "losses": "Losses: forward and backward, gradient to the predictions",
    "pairwise": "All pairs of two sets of boxes: .f forward alone, .fb with gradients to both sets",
    "matching": "Matching of predictions with targets: forward alone, it has no gradient",
    "detection": "Whole detection losses, matching included: forward and backward",
    "segmentation": "Label maps: forward and backward, gradient to the logits",
    "tracking": "Tracking losses: forward and backward, gradient to the predictions",
    "mmdet": "Classes of mmdet.models.losses: forward and backward, gradient to the predictions",
    TERMS: "Label maps: what one more term of a sum costs, in fastloss",
}


# 1e6 boxes is one large batch of positives and far beyond the cache of one core; 20e6 fills a large
# GPU (1040 MB to move).
_BOXES = MappingProxyType({"small": (1_000_000,), "large": (20_000_000,)})
# 100k anchors of one 800 x 1333 image and the 80 classes of COCO; 2e6 anchors are a batch of 16 or
# more.
_SCORES = MappingProxyType({"small": (100_000, 80), "large": (2_000_000, 80)})
# CenterNet's output at stride 4 of a 512 x 512 image, 80 classes: as many elements as _SCORES.
_HEATMAPS = MappingProxyType({"small": (6, 80, 128, 128), "large": (120, 80, 128, 128)})
# Images, candidates and targets of each, for every pair of which a similarity comes out.
_SETS: Mapping[str, tuple[box_sets.Candidates, Mapping[str, Shape]]] = {
    # The default boxes of SSD300: 2.2M pairs at batch 8, and a result of 143 MB at batch 128.
    "ssd": (box_sets.ssd_predictions, {"small": (8, 8732, 32), "large": (128, 8732, 32)}),
    # The queries of DETR's successors: 0.7M pairs, and 69 MB.
    "detr": (box_sets.detr_predictions, {"small": (8, 900, 100), "large": (192, 900, 100)}),
    # The anchors of an 800 x 1344 image. On a CPU 60,000 of them, so that two images have 2.4M
    # pairs, about as many as SSD's; all of them in 24 images make 516 MB.
    "rpn": (box_sets.rpn_anchors, {"small": (2, 60_000, 20), "large": (24, 268_506, 20)}),
}
# Four deltas per box: 4M and 100M elements.
_DELTAS = MappingProxyType({"small": (1_000_000, 4), "large": (25_000_000, 4)})


def _box(
    name: str,
    reason: str,
    upstream: str,
    *,
    eps: float = 1e-6,
    make_inputs: Callable[[Source, Shape], Inputs] = inputs.box_pairs,
    **options: Any,
) -> Workload:
    return Workload(
        name=name,
        stem="box_loss",
        call="box_loss",
        options={"eps": eps, **options},
        make_inputs=make_inputs,
        sizes=_BOXES,
        reason=reason,
        upstream=(Upstream("mmdet", upstream, {"eps": eps}),),
    )


def _elementwise(kind: str, reason: str, upstream: str) -> Workload:
    return Workload(
        name=f"elem_{kind}",
        stem="regression_loss",
        call="regression_loss",
        options={"kind": kind},
        make_inputs=inputs.regression_pairs,
        sizes=_DELTAS,
        reason=reason,
        upstream=(Upstream("mmdet", upstream),),
    )


def _pairs(kind: str, case: str, direction: str, reason: str) -> Workload:
    """`direction`: "f" for the forward alone, "fb" with the backward."""
    candidates, sizes = _SETS[case]
    upstream = (Upstream("mmdet", "bbox_overlaps", {"mode": kind, "eps": 1e-6}),)
    return Workload(
        name=f"pair_{kind}.{case}.{direction}",
        stem="pairwise_iou",
        call="pairwise_iou",
        options={"kind": kind, "eps": 1e-6},
        make_inputs=box_sets.make(candidates, backward=direction == "fb"),
        sizes=sizes,
        reason=reason,
        upstream=upstream if kind in ("iou", "giou") else (),  # mmdet has no others of all pairs
        suite="pairwise",
        reduces=False,
    )


def _scores(
    name: str,
    call: str,
    make_inputs: Callable[[Source, Shape], Inputs],
    reason: str,
    upstream: Upstream,
    sizes: Mapping[str, Shape] = _SCORES,
) -> Workload:
    return Workload(name, "sigmoid_focal", call, {}, make_inputs, sizes, reason, (upstream,))


_ALL = (
    _box("aligned_iou", "-log(IoU), mmdet's default", "IoULoss", kind="iou", mode="log"),
    _box("aligned_giou", "GIoU, the box loss of DETR and FCOS heads", "GIoULoss", kind="giou"),
    _box("aligned_diou", "DIoU: adds the centre distance", "DIoULoss", kind="diou"),
    _box("aligned_ciou", "CIoU: adds two arctangents, the YOLO box loss", "CIoULoss", kind="ciou"),
    _box(
        "aligned_eiou",
        "extended IoU with its smoothing, the YuNet box loss",
        "EIoULoss",
        kind="eiou",
    ),
    _box(
        "aligned_siou",
        "SIoU: angle, distance and shape, four exponentials",
        "SIoULoss",
        kind="siou",
    ),
    _box(
        "aligned_bounded",
        "bounded IoU: a value and a weight per coordinate",
        "BoundedIoULoss",
        eps=1e-3,
        make_inputs=inputs.box_coordinates,
        kind="bounded_iou",
    ),
    _scores(
        "sigmoid_focal.dense",
        "sigmoid_focal_loss",
        inputs.dense_classes,
        "one-hot targets of the logits' shape",
        Upstream("mmdet", "FocalLoss"),
    ),
    _scores(
        "sigmoid_focal.index",
        "sigmoid_focal_loss",
        inputs.index_classes,
        "class ids and one weight per row, as dense heads call it",
        Upstream("mmdet", "FocalLoss"),
    ),
    _scores(
        "quality_focal",
        "quality_focal_loss",
        inputs.quality_classes,
        "class ids with IoU scores (GFL)",
        Upstream("mmdet", "QualityFocalLoss"),
    ),
    _scores(
        "varifocal",
        "varifocal_loss",
        inputs.iou_aware_classes,
        "IoU-aware dense targets (VarifocalNet)",
        Upstream("mmdet", "VarifocalLoss"),
    ),
    _scores(
        "gaussian_focal",
        "gaussian_focal_loss",
        inputs.heatmaps,
        "centre heat maps (CenterNet)",
        Upstream("mmdet", "GaussianFocalLoss"),
        _HEATMAPS,
    ),
    _scores(
        "bce",
        "binary_cross_entropy",
        inputs.dense_classes,
        "multi-label binary cross entropy",
        Upstream("mmdet", "CrossEntropyLoss", {"use_sigmoid": True}),
    ),
    _elementwise("l1", "three simple kernels in eager mode", "L1Loss"),
    _elementwise("smooth_l1", "two branches, both computed in eager mode", "SmoothL1Loss"),
    _elementwise("balanced_l1", "smooth L1 with a logarithm (Libra R-CNN)", "BalancedL1Loss"),
    _elementwise("mse", "one fused kernel each way in eager mode", "MSELoss"),
    _pairs("iou", "ssd", "f", "IoU matrix of predictions and targets, as matching needs it"),
    _pairs("iou", "ssd", "fb", "the same as a cost that gradients flow through"),
    _pairs("giou", "ssd", "f", "GIoU matrix"),
    _pairs("giou", "ssd", "fb", "GIoU as the cost of an optimal-transport loss"),
    _pairs("giou", "detr", "f", "the matching cost of DETR's queries"),
    _pairs("giou", "detr", "fb", "the same with gradients"),
    _pairs("giou", "rpn", "f", "many anchors, few targets"),
    _pairs("diou", "ssd", "fb", "DIoU: adds the centre distance"),
    _pairs("ciou", "ssd", "fb", "CIoU: an arctangent per box, an aspect term per pair"),
    *matching.WORKLOADS,
    *transport.WORKLOADS,
    *detection.WORKLOADS,
    *segmentation.WORKLOADS,
    *tracking.WORKLOADS,
    *tables.WORKLOADS,
    *rows.WORKLOADS,
    *instances.WORKLOADS,
    *cross_entropy.WORKLOADS,
    *mmdet.WORKLOADS,
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}


def select(
    suite: str | None = None, stem: str | None = None, names: list[str] | None = None
) -> list[Workload]:
    """All workloads in table order, narrowed to a suite, to a stem and to given names."""
    chosen = [w for w in WORKLOADS.values() if suite in (None, w.suite)]
    if stem is not None:
        chosen = [w for w in chosen if w.stem == stem]
    if names:
        unknown = sorted(set(names) - {w.name for w in chosen})
        if unknown:
            there = ", ".join(w.name for w in chosen)
            raise ValueError(f"no such workload here: {', '.join(unknown)}; there are {there}")
        chosen = [w for w in chosen if w.name in names]
    if not chosen:
        among = "here" if suite is None else f"in suite {suite!r}"
        raise ValueError(f"no workload {among} with stem {stem!r}")
    return chosen


def together(chosen: Sequence[Workload]) -> list[list[Workload]]:
    """What is timed in the same rounds: the members of a group, each other workload by itself."""
    groups = itertools.groupby(chosen, key=lambda w: w.group or w.name)
    return [list(members) for _, members in groups]
