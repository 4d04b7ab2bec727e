"""One workload a class of `mmdet.models.losses`: the mirrored class against mmdet's own, eager and
compiled, as the heads of detectors call them. (Not DDQAuxLoss: mmdet's computes in float32 alone,
so there is no truth to check against.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench import inputs
from bench.inputs import Inputs, Shape, Source
from bench.workload import Upstream, Workload

SUITE = "mmdet"

# A million boxes, or deltas of boxes: the positives of a large batch, beyond the cache of one core.
BOXES = {"small": (1_000_000,), "large": (20_000_000,)}
DELTAS = {"small": (1_000_000, 4), "large": (25_000_000, 4)}
# 100k anchors and the 80 classes of COCO.
SCORES = {"small": (100_000, 80), "large": (2_000_000, 80)}
# Proposals of a batch with 80 classes and background.
ROWS = {"small": (32_768, 81), "large": (1_000_000, 81)}
# Proposals with the classes of LVIS, background and what a loss adds to them.
LONG_TAIL = {"small": (1_024, 1_205), "large": (65_536, 1_205)}
# Masks of instances at the points that Mask2Former samples, or of its RoI heads.
POINTS = {"small": (100, 12_544), "large": (3_200, 12_544)}
ROI_MASKS = {"small": (64, 80, 28, 28), "large": (1_024, 80, 28, 28)}


def class_ids(source: Source, shape: Shape) -> Inputs:
    """Logits (N, C), class ids (N,), one weight a row."""
    rows, classes = shape
    labels = source.labels(rows, classes, 0.25).clamp(max=classes - 1)
    return Inputs.of_loss(source.normal(*shape, std=2.0), labels, *inputs._weights(source, rows))


def of_rows(source: Source, shape: Shape) -> Inputs:
    """As `index_classes`, with weights (N,)."""
    found = inputs.index_classes(source, shape)
    weight = found.named["weight"][:, 0]
    return Inputs.of_loss(*found.arguments, weight, found.named["avg_factor"])


def roi_masks(source: Source, shape: Shape) -> Inputs:
    """Mask logits (N, C, H, W), masks (N, H, W), the class of each instance."""
    target = (source.uniform(shape[0], *shape[2:]) < 0.5).float()
    labels = source.labels(shape[0], shape[1], 1.0)
    return Inputs((source.normal(*shape), target, labels))


def masks(source: Source, shape: Shape) -> Inputs:
    """Mask logits and masks (N, P), a weight of each instance."""
    target = (source.uniform(*shape) < 0.3).float()
    logits = source.normal(*shape, std=2.0) + 3 * target - 2
    weight, avg_factor = inputs._weights(source, shape[0])
    return Inputs((logits, target), {"weight": weight, "avg_factor": avg_factor})


def distances(source: Source, shape: Shape) -> Inputs:
    """Logits of the distances 0..n of box sides (N, n + 1), distances (N,), weights."""
    rows, bins = shape
    target = source.uniform(rows, high=bins - 1.01)
    return Inputs.of_loss(source.normal(*shape), target, *inputs._weights(source, rows))


def teacher(source: Source, shape: Shape) -> Inputs:
    """Logits of a student and of its teacher (N, C), weights (N,)."""
    soft = source.normal(*shape, std=3.0)
    pred = soft + source.normal(*shape)
    return Inputs.of_loss(pred, soft, *inputs._weights(source, shape[0]))


def long_tail(source: Source, shape: Shape) -> Inputs:
    """Logits (N, C + 2), class ids (N,) in [0, C], a quarter of them objects, mostly of the first
    classes."""
    rows, columns = shape
    classes = columns - 2
    tail = (classes * source.uniform(rows) ** 4).long().clamp(max=classes - 1)
    labels = tail.masked_fill(source.uniform(rows) > 0.25, classes)
    return Inputs((source.normal(*shape, std=2.0), labels))


def dense_and_valid(source: Source, shape: Shape) -> Inputs:
    """Logits and one-hot targets (N, C), and weights, 0 for a tenth of the rows."""
    found = inputs.dense_classes(source, shape)
    valid = (source.uniform(shape[0], 1) > 0.1).float().expand(shape).contiguous()
    return Inputs((*found.arguments, valid))


def deltas_and_valid(source: Source, shape: Shape) -> Inputs:
    """Deltas of boxes and their targets (N, 4), and weights, 0 for a tenth of the rows."""
    pred, target = inputs.regression_pairs(source, shape).arguments
    valid = (source.uniform(shape[0], 1) > 0.1).float().expand(shape).contiguous()
    return Inputs((pred / 20, target / 20, valid))


def similarities(source: Source, shape: Shape) -> Inputs:
    """Similarities of regions of two frames (N, M), of which 1 in 50 pairs is positive."""
    target = (source.uniform(*shape) < 0.02).float()
    return Inputs((source.normal(*shape, mean=0.2, std=0.25) + 0.5 * target, target))


def identities(source: Source, shape: Shape) -> Inputs:
    """Embeddings (N, D), four of each person, and the person of each."""
    person = torch.arange(shape[0], device=source.device) // 4
    return Inputs((source.normal(*shape), person))


def corners(source: Source, shape: Shape) -> Inputs:
    """Embedding maps of both corners (B, 1, H, W), 20 objects an image."""
    height, width = shape[2:]
    places = source.uniform(shape[0], 20, 4).cpu()
    places = (places * torch.tensor([height, width] * 2)).long().tolist()
    match = [[[place[:2], place[2:]] for place in image] for image in places]
    return Inputs((source.normal(*shape), source.normal(*shape), match), differentiable=2)


def predicted_classes(source: Source, shape: Shape) -> Inputs:
    """Scores (N, C) and class ids (N,); no gradient."""
    labels = source.labels(*shape, 1.0)
    scores = source.normal(*shape)
    scores[:, :2] += 2  # Of half of the rows, whose label is one of these.
    labels[::2] %= 2
    return Inputs((scores, labels), differentiable=0)


def _row(
    name: str,
    stem: str,
    make_inputs: Callable[[Source, Shape], Inputs],
    sizes: Mapping[str, Shape],
    reason: str,
    adds_up: bool = False,
    tag: str = "",
    own_tolerance: float | None = None,
    **options: Any,
) -> Workload:
    return Workload(
        name=f"mmdet.{name}{tag}",
        stem=stem,
        call=None,
        options={},
        make_inputs=make_inputs,
        sizes=sizes,
        reason=reason,
        upstream=(Upstream("mmdet", name, options, adds_up),),
        ours=Upstream("fastloss.compat.mmdet", name, options, adds_up),
        suite=SUITE,
        # The truth is mmdet's class in float64, which rounds labels and weights to float32.
        own_tolerance=own_tolerance,
    )


def _boxes(name: str, make_inputs: Callable = inputs.box_pairs) -> Workload:
    stem = "bounded_iou_loss" if name == "BoundedIoULoss" else "box_loss"
    return _row(name, stem, make_inputs, BOXES, "weights and avg_factor as heads pass them")


def _deltas(name: str) -> Workload:
    return _row(name, "regression_loss", inputs.regression_pairs, DELTAS, "a weight a coordinate")


_PAIRS = {"small": (1_024, 2_048), "large": (4_096, 8_192)}
_MINING = {"neg_pos_ub": 3, "hard_mining": True}

WORKLOADS = (
    *map(_boxes, ("IoULoss", "GIoULoss", "DIoULoss", "CIoULoss", "EIoULoss", "SIoULoss")),
    _boxes("BoundedIoULoss", inputs.box_coordinates),
    *map(_deltas, ("L1Loss", "SmoothL1Loss", "BalancedL1Loss", "MSELoss")),
    _row("FocalLoss", "sigmoid_focal", of_rows, SCORES, "class ids, a weight a row"),
    _row("VarifocalLoss", "sigmoid_focal", inputs.iou_aware_classes, SCORES, "IoU-aware scores"),
    _row("QualityFocalLoss", "sigmoid_focal", inputs.quality_classes, SCORES, "ids and qualities"),
    _row(
        "GaussianFocalLoss", "sigmoid_focal", inputs.heatmaps,
        {"small": (6, 80, 128, 128), "large": (120, 80, 128, 128)}, "heat maps of CenterNet",
    ),
    _row("FocalCustomLoss", "sigmoid_focal", of_rows, SCORES, "as FocalLoss", num_classes=80),
    _row("CrossEntropyLoss", "cross_entropy", class_ids, ROWS, "softmax, a weight a row"),
    _row(
        "CrossEntropyLoss", "sigmoid_focal", of_rows, SCORES, "sigmoid of class ids",
        tag=".sigmoid", use_sigmoid=True,
    ),
    _row(
        "CrossEntropyLoss", "sigmoid_focal", roi_masks, ROI_MASKS, "the mask of the class",
        tag=".mask", use_mask=True,
    ),
    _row(
        "CrossEntropyCustomLoss", "cross_entropy", class_ids, ROWS, "as CrossEntropyLoss",
        num_classes=80,
    ),
    _row(
        "DistributionFocalLoss", "distribution_focal", distances,
        {"small": (67_200, 17), "large": (4_000_000, 17)}, "four sides of the boxes of GFL",
    ),
    _row("KnowledgeDistillationKLDivLoss", "distillation", teacher, ROWS, "LD's class logits"),
    _row("DiceLoss", "segmentation_table", masks, POINTS, "Mask2Former's points of instances"),
    _row(
        "SeesawLoss", "seesaw", long_tail, LONG_TAIL, "LVIS; objectness and classes",
        adds_up=True,
    ),
    _row(
        "EQLV2Loss", "equalization", long_tail, {k: (n, 1_204) for k, (n, _) in LONG_TAIL.items()},
        "LVIS with its background column",
    ),
    _row(
        "GHMC", "gradient_harmonized", dense_and_valid,
        {"small": (8_192, 80), "large": (400_000, 80)}, "ten bins of the gradient's length",
    ),
    _row(
        "GHMR", "gradient_harmonized", deltas_and_valid,
        {"small": (65_536, 4), "large": (10_000_000, 4)}, "ten bins of the gradient's length",
    ),
    _row(
        "MultiPosCrossEntropyLoss", "contrastive", similarities,
        {"small": (256, 512), "large": (512, 1_024)}, "QDTrack's regions of two frames",
    ),
    _row(
        "L2Loss", "embedding_distance", similarities, _PAIRS, "QDTrack's, hard negatives",
        own_tolerance=1e-2, **_MINING,
    ),
    _row(
        "MarginL2Loss", "embedding_distance", similarities, _PAIRS, "the same",
        own_tolerance=1e-2, **_MINING,
    ),
    _row(
        "TripletLoss", "torch", identities, {"small": (512, 256), "large": (4_096, 256)},
        "the hardest pairs of a re-identification batch",
    ),
    _row(
        "AssociativeEmbeddingLoss", "torch", corners,
        {"small": (6, 1, 128, 128), "large": (64, 1, 128, 128)}, "CornerNet's corners",
        adds_up=True,
    ),
    _row("Accuracy", "torch", predicted_classes, ROWS, "top 1, no gradient", adds_up=True),
)  # fmt: skip
