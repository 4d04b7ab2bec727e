"""The workloads of label maps: losses alone, in sums, and what a further term costs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch

from bench import loss_module
from bench.baselines import lovasz
from bench.inputs import Inputs, Shape, Source
from bench.workload import Peer, Upstream, Workload

# Street scenes: 19 classes, and ids of 255 for what has none. 5M logits (20 MB) are far beyond the
# cache of one core; 159M fill a large GPU (1.3 GB for logits and gradient).
_MAPS = MappingProxyType({"small": (4, 19, 256, 256), "large": (32, 19, 512, 512)})
# Land cover: 6 classes, every pixel labelled. 1.6M and 19M logits, in windows that are small, and
# those of geo-deep-learning.
_LAND = MappingProxyType({"small": (4, 6, 256, 256), "large": (12, 6, 512, 512)})
# One object against the background: 4M and 67M logits.
_MASKS = MappingProxyType({"small": (16, 1, 512, 512), "large": (64, 1, 1024, 1024)})
IGNORED = 255
# Masks of objects, hinge losses of one image-sized logit: 1M and 67M logits.
_OBJECTS = MappingProxyType({"small": (4, 512, 512), "large": (64, 1024, 1024)})
_BLOCK = 16  # pixels: objects are connected, so that neighbours mostly have the same class


def class_maps(source: Source, shape: Shape) -> Inputs:
    """Logits (N, C, H, W) of a network that is right on three pixels of four; class ids, of which
    one in twenty is ignored."""
    images, classes, *area = shape
    labels = _blocks(source, images, classes, *area)
    logits = source.normal(*shape, std=1.5).scatter_add_(
        1, labels[:, None], torch.full_like(labels, 4, dtype=torch.float32)[:, None]
    )
    labels.masked_fill_(source.uniform(images, *area) < 0.05, IGNORED)
    return Inputs((logits, labels))


def land_cover(source: Source, shape: Shape) -> Inputs:
    """As `class_maps`, and no pixel is ignored."""
    logits, labels = class_maps(source, shape).arguments
    return Inputs((logits, labels.where(labels != IGNORED, logits.argmax(1))))


def masks(source: Source, shape: Shape) -> Inputs:
    """Logits and a mask of zeros and ones, both (N, 1, H, W), as float32."""
    images, _, *area = shape
    target = _blocks(source, images, 2, *area)[:, None].float()
    return Inputs((source.normal(*shape, std=1.5).add_(4 * target - 2), target))


def objects(source: Source, shape: Shape) -> Inputs:
    """Logits and a mask of integers, both (N, H, W)."""
    logits, target = masks(source, (shape[0], 1, *shape[1:])).arguments
    return Inputs((logits[:, 0], target[:, 0].long()))


def _blocks(source: Source, images: int, classes: int, height: int, width: int) -> torch.Tensor:
    """Class ids (N, H, W) that change from block to block alone."""
    area = (-(-height // _BLOCK), -(-width // _BLOCK))
    ids = torch.randint(classes, (images, *area), generator=source.generator, device=source.device)
    ids = ids.repeat_interleave(_BLOCK, 1).repeat_interleave(_BLOCK, 2)
    return ids[:, :height, :width].contiguous()


def _workload(
    name: str,
    call: str,
    options: Mapping[str, Any],
    reason: str,
    upstream: tuple[Upstream, ...] = (),
    **others: Any,
) -> Workload:
    settings = {
        "stem": "segmentation",
        "make_inputs": class_maps,
        "sizes": _MAPS,
        "suite": "segmentation",
    } | others
    return Workload(
        name=name,
        call=call,
        options=options,
        reason=reason,
        upstream=upstream,
        reduces=False,
        reads=2,
        **settings,
    )


def _sum(name: str, terms: Mapping[str, Any], *rest: Any, **others: Any) -> Workload:
    options = {"terms": terms, "ignore_index": IGNORED}
    return _workload(name, "segmentation_loss", options, *rest, **others)


def _ohem(rule: str, thresh: float, reason: str) -> Workload:
    """Hard are 57 % of the pixels up to 0.6, and 68 % up to 0.7. geo-deep-learning keeps at least
    as many of the batch, which is fewer; mmsegmentation of each image, which is all but one."""
    options = {"thresh": thresh, "min_kept": 100_000, "rule": rule, "ignore_index": IGNORED}
    name = f"ohem_{rule}.{thresh}"
    return _workload(name, "ohem_cross_entropy", options, reason, stem="ohem")


def _boundary(theta0: int, theta: int, reason: str) -> Workload:
    return _workload(
        f"boundary.{theta0}_{theta}",
        "boundary_loss",
        {"theta0": theta0, "theta": theta},
        reason,
        stem="boundary",
        make_inputs=land_cover,
        sizes=_LAND,
        # Of two probabilities that are equal but for rounding float32 may find another one to be
        # the largest in a window than float64 does, and the gradient goes there. fastloss and
        # eager float32 choose alike, and err alike: by 2e-4 and by 1e-2 in the large windows.
        tolerance=3e-2,
        own_tolerance=3e-2,
    )


def _smp(name: str) -> Upstream:
    return Upstream("smp", name, {"mode": "multiclass", "ignore_index": IGNORED})


def _torch(**options: Any) -> Upstream:
    return Upstream("torch", "CrossEntropyLoss", {"ignore_index": IGNORED, **options})


_SMOOTHED = {"label_smoothing": 0.1}
_MODULE = {
    "terms": {"cross_entropy": 1.0, "dice": 1.0, "sigmoid_focal": 1.0},
    "ignore_index": IGNORED,
}

LOSSES = (
    _workload(
        "ce2d_ls",
        "cross_entropy",
        {"ignore_index": IGNORED, **_SMOOTHED},
        "cross entropy with label smoothing",
        (_torch(**_SMOOTHED),),
    ),
    _ohem("gdl", 0.6, "hard pixels of the batch, up to the default probability of their class"),
    _ohem("gdl", 0.7, "hard pixels of the batch, more of them"),
    _ohem("mmseg", 0.7, "hard pixels of each image; all that are valid are searched for a rank"),
    _sum(
        "focal_mc",
        {"sigmoid_focal": 1.0},
        "focal loss of every class against the rest",
        (_smp("FocalLoss"),),
    ),
    _sum("dice_mc", {"dice": 1.0}, "Dice loss of every class", (_smp("DiceLoss"),)),
    _sum(
        "sum2.ce_dice",
        {"cross_entropy": 1.0, "dice": 1.0},
        "cross entropy and Dice in one call",
        (_torch(), _smp("DiceLoss")),
    ),
    _sum(
        "sum3.ce_focal_dice",
        {"cross_entropy": _SMOOTHED, "sigmoid_focal": 1.0, "dice": 1.0},
        "the first three in one call",
        (_torch(**_SMOOTHED), _smp("FocalLoss"), _smp("DiceLoss")),
    ),
    _workload(
        "sum2.bce_dice",
        "segmentation_loss",
        {"terms": {"soft_bce": 1.0, "dice": 1.0}, "mode": "binary"},
        "one object against the background",
        (
            Upstream("smp", "SoftBCEWithLogitsLoss"),
            Upstream("smp", "DiceLoss", {"mode": "binary"}),
        ),
        make_inputs=masks,
        sizes=_MASKS,
        # smp sums |p - t| with torch.linalg.vector_norm, which on a CPU adds 4M float32 numbers one
        # by one and errs by 1e-3; fastloss errs by 1e-7.
        tolerance=5e-3,
    ),
    _workload(
        "loss_module.ce_dice_focal",
        "segmentation_loss",
        _MODULE,
        "three losses of other libraries in vis4d's LossModule",
        (Upstream("vis4d_engine", "loss_module", _MODULE),),
        ours=loss_module.ours,
        peers=(Peer("apart", functools.partial(loss_module.apart, **_MODULE)),),
    ),
    _boundary(3, 5, "F1 score of boundaries, the windows of its paper"),
    _boundary(19, 19, "the same with the windows of geo-deep-learning"),
)


def _lovasz(name: str, call: str, reason: str, *rest: Any, **others: Any) -> Workload:
    # Differences of nearly equal Jaccard losses in float32 put the opponents' gradients off by
    # 1e-3.
    settings = {"stem": "lovasz", "tolerance": 1e-2} | others
    options = {"ignore_index": IGNORED} if call == "lovasz_softmax" else {}
    if name.endswith("histogram"):
        options["method"] = "histogram"
        settings["own_tolerance"] = 2e-3  # of the gradient, see the docstring of lovasz_softmax
    return _workload(name, call, options, reason, *rest, **settings)


_ONE_SORT = (Peer("one sort", lovasz.sorted_at_once),)
_OF_SMP = Upstream("smp", "LovaszLoss", {"mode": "multiclass", "ignore_index": IGNORED})
_HINGE = Upstream("smp", "LovaszLoss", {"mode": "binary"})

LOVASZ = (
    _lovasz(
        "lovasz_softmax", "lovasz_softmax", "every class in order", (_OF_SMP,), peers=_ONE_SORT
    ),
    _lovasz(
        "lovasz_softmax.histogram",
        "lovasz_softmax",
        "4096 bins in place of the order",
        (_OF_SMP,),
        peers=_ONE_SORT,
    ),
    _lovasz(
        "lovasz_hinge",
        "lovasz_hinge",
        "one object against the background",
        (_HINGE,),
        make_inputs=objects,
        sizes=_OBJECTS,
        tolerance=5e-2,  # more pixels, more of their differences are 0
    ),
    _lovasz(
        "lovasz_hinge.histogram",
        "lovasz_hinge",
        "bins of the floating-point number",
        (_HINGE,),
        make_inputs=objects,
        sizes=_OBJECTS,
        tolerance=5e-2,
    ),
)

# What a term costs that joins the others: their sum with it less their sum without it.
TERMS = ("cross_entropy", "softmax_focal", "sigmoid_focal", "dice")
ALL = "all"


def alone(term: str) -> str:
    return f"{term}.alone"


def without(term: str) -> str:
    return f"{ALL}.without_{term}"


def _terms() -> Iterator[Workload]:
    more = {"suite": "segmentation_terms", "group": "terms"}
    yield _sum(ALL, dict.fromkeys(TERMS, 1.0), "the sum of four terms", **more)
    for term in TERMS:
        others = {name: 1.0 for name in TERMS if name != term}
        yield _sum(without(term), others, f"the sum without {term}", **more)
        yield _sum(alone(term), {term: 1.0}, f"{term} alone", **more)


WORKLOADS = (*LOSSES, *LOVASZ, *_terms())
