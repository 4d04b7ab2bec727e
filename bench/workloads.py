"""The workloads as data: what is called, on what, why that size, and which upstream class does the
same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from bench import inputs
from bench.inputs import Inputs, Shape, Source

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Upstream:
    """A loss class of another library, built with these options and reduction "mean"."""

    library: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """The best other kernel for a workload. `make` returns a loss with the baseline's signature and
    raises ImportError where the peer is not installed."""

    name: str
    make: Callable[[], Loss]


@dataclass(frozen=True)
class Workload:
    """`call` names the function in `bench.baselines.<stem>` and in `fastloss.functional`; both take
    `options`."""

    name: str
    stem: str
    call: str
    options: Mapping[str, Any]
    make_inputs: Callable[[Source, Shape], Inputs]
    sizes: Mapping[str, Shape]
    reason: str
    upstream: Upstream | None = None
    peers: tuple[Peer, ...] = ()
    suite: str = "losses"


# 1e6 boxes is one large batch of positives and far beyond the cache of one core; 20e6 fills a large
# GPU (1040 MB to move).
_BOXES = MappingProxyType({"small": (1_000_000,), "large": (20_000_000,)})
# 100k anchors of one 800 x 1333 image and the 80 classes of COCO; 2e6 anchors are a batch of 16 or
# more.
_SCORES = MappingProxyType({"small": (100_000, 80), "large": (2_000_000, 80)})
# CenterNet's output at stride 4 of a 512 x 512 image, 80 classes: as many elements as _SCORES.
_HEATMAPS = MappingProxyType({"small": (6, 80, 128, 128), "large": (120, 80, 128, 128)})
# Four deltas per box: 4M and 100M elements.
_DELTAS = MappingProxyType({"small": (1_000_000, 4), "large": (25_000_000, 4)})


def _box(name: str, reason: str, upstream: str, **options: Any) -> Workload:
    return Workload(
        name=name,
        stem="box_loss",
        call="box_loss",
        options={"eps": 1e-6, **options},
        make_inputs=inputs.box_pairs,
        sizes=_BOXES,
        reason=reason,
        upstream=Upstream("mmdet", upstream, {"eps": 1e-6}),
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
        upstream=Upstream("mmdet", upstream),
    )


def _scores(
    name: str,
    call: str,
    make_inputs: Callable[[Source, Shape], Inputs],
    reason: str,
    upstream: Upstream,
    sizes: Mapping[str, Shape] = _SCORES,
) -> Workload:
    return Workload(name, "sigmoid_focal", call, {}, make_inputs, sizes, reason, upstream)


_ALL = (
    _box("aligned_iou", "-log(IoU), mmdet's default", "IoULoss", kind="iou", mode="log"),
    _box("aligned_giou", "GIoU, the box loss of DETR and FCOS heads", "GIoULoss", kind="giou"),
    _box("aligned_diou", "DIoU: adds the centre distance", "DIoULoss", kind="diou"),
    _box("aligned_ciou", "CIoU: adds two arctangents, the YOLO box loss", "CIoULoss", kind="ciou"),
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
    _elementwise("mse", "one fused kernel each way in eager mode", "MSELoss"),
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}


def suites() -> list[str]:
    return list(dict.fromkeys(workload.suite for workload in WORKLOADS.values()))


def select(suite: str, stem: str | None = None, names: list[str] | None = None) -> list[Workload]:
    """The workloads of a suite, in table order, narrowed to a stem and to given names."""
    chosen = [w for w in WORKLOADS.values() if w.suite == suite]
    if stem is not None:
        chosen = [w for w in chosen if w.stem == stem]
    if names:
        unknown = sorted(set(names) - {w.name for w in chosen})
        if unknown:
            there = ", ".join(w.name for w in chosen)
            raise ValueError(f"no such workload here: {', '.join(unknown)}; there are {there}")
        chosen = [w for w in chosen if w.name in names]
    if not chosen:
        raise ValueError(f"no workload in suite {suite!r} with stem {stem!r}")
    return chosen
