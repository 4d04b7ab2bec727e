"""Cost matrix of predictions and targets, for matching them."""

import functools

import torch
from torch import Tensor

from .._library import register
from ..reference import matching_cost as reference
from . import _arguments as check
from ._segmentation import INDEX_DTYPES

_op = register(
    "matching_cost",
    "(Tensor boxes, Tensor target_boxes, Tensor? logits, Tensor? labels, Tensor? mask, "
    "str cls_cost, float cls_weight, float l1_weight, float iou_weight, str iou_kind, "
    "str box_format, float alpha, float gamma, float eps, float constant, float? background_cost, "
    "ScalarType dtype)",
    reference.forward,
    check=reference.check,
)


def matching_cost(
    logits: Tensor | None,
    boxes: Tensor,
    labels: Tensor | None,
    target_boxes: Tensor,
    mask: Tensor | None = None,
    *,
    cls_cost: str | None = "softmax",
    cls_weight: float = 1.0,
    l1_weight: float = 5.0,
    iou_weight: float = 2.0,
    iou_kind: str = "giou",
    box_format: str = "xyxy",
    alpha: float = 0.25,
    gamma: float = 2.0,
    eps: float = 1e-7,
    constant: float = 0.0,
    background_cost: float | None = None,
) -> Tensor:
    r"""Cost of matching every prediction with every target of its image, for a batch of images.

    .. math::
        \mathrm{cls\_weight} \cdot \mathrm{class}(i, j)
        + \mathrm{l1\_weight} \, |b_i - t_j|_1 - \mathrm{iou\_weight} \cdot \mathrm{IoU}(b_i, t_j)
        + \mathrm{constant}

    The class cost of p, the probability of the target's class, is "softmax" :math:`-p`, "nll"
    :math:`-\ln p` (both of a softmax) or, of a sigmoid, "sigmoid_focal"
    :math:`\alpha (1-p)^\gamma (-\ln(p+\epsilon)) - (1-\alpha) p^\gamma (-\ln(1-p+\epsilon))` with
    :math:`\epsilon = 10^{-8}`. The defaults are DETR's, whose boxes are "cxcywh" in units of the
    image; Deformable DETR and its successors take "sigmoid_focal" with a cls_weight of 2. Only
    pairs of one image are computed. Edge rules and sources: `fastloss/reference/matching_cost.py`.

    Args:
        logits: (B, N, C), floating point, at least one class.
        boxes: (B, N, 4) in `box_format`, floating point. Inverted boxes count with negative area.
        labels: (B, M), any integer dtype: classes of the targets, in [0, C).
        target_boxes: (B, M, 4) likewise. Of different floating dtypes the common one counts.
        mask: (B, M), bool, False for padding, which may be anywhere; None: every target is real.
        cls_cost: "softmax", "nll", "sigmoid_focal", or None for no class term: then logits and
            labels are not looked at and may be None.
        cls_weight, l1_weight, iou_weight: Any number; a term of weight 0 is not computed.
        iou_kind: "iou", "giou", "diou" or "ciou", as in `pairwise_iou`.
        box_format: "xyxy" (corners) or "cxcywh" (centre and size): what the L1 distance is between.
            The IoU is that of the corners.
        alpha: Weight of the first part of the focal cost, <= 1; negative: both have weight 1.
        gamma: Exponent of the focal cost, >= 0.
        eps: Of the IoU, as in `pairwise_iou`, >= 0.
        constant: What every real pair costs besides; 2 with an iou_weight of 2 makes that term
            2 (1 - IoU).
        background_cost: If given, the cost of one more, last column, for every row.

    Returns:
        (B, N, M), or (B, N, M + 1) with a background; in the common dtype of logits and boxes
        (float32 for half inputs under autocast). Without a gradient, which matching does not have.
        0 in columns of padding. Always finite: a pair with a number that is not, or with -ln 0,
        costs 1e9 (65504 in float16), a cost beyond the range of the dtype its largest number. In
        float64 that holds instead of the formula for IoU of boxes beyond 1e150.

    Raises:
        TypeError: a tensor is not of the dtype described, or an option not a number.
        ValueError: wrong shape, different devices, unknown option, or a number that is not finite
            or out of range.
        IndexError: on the CPU, a label of a target that is no class. (On a GPU its column is NaN.)
    """
    check.choice("iou_kind", iou_kind, reference.KINDS)
    check.choice("box_format", box_format, reference.BOX_FORMATS)
    _check_boxes(boxes, target_boxes)
    shape = target_boxes.shape[:2]
    if cls_cost is None:
        logits = labels = None
    else:
        check.choice("cls_cost", cls_cost, reference.CLASS_COSTS)
        _check_classes(logits, labels, boxes, shape)
    if mask is not None:
        check.mask("mask", mask, shape, "boxes", boxes)

    floating = [x for x in (boxes, target_boxes, logits) if x is not None]
    common = functools.reduce(torch.promote_types, [x.dtype for x in floating])
    double = common == torch.float64
    cls_weight = _number("cls_weight", cls_weight, double)
    l1_weight = _number("l1_weight", l1_weight, double)
    iou_weight = _number("iou_weight", iou_weight, double)
    gamma = check.at_least("gamma", _number("gamma", gamma, double), 0)
    alpha = _number("alpha", alpha, double)
    if alpha > 1:
        raise ValueError(f"alpha must be <= 1, got {alpha}")
    eps = check.at_least("eps", _number("eps", eps, double), 0)
    constant = _number("constant", constant, double)
    if background_cost is not None:
        background_cost = check.number("background_cost", background_cost)

    if cls_weight == 0:
        logits = labels = None
    if labels is not None and labels.dtype not in INDEX_DTYPES:
        labels = labels.long()
    if not double and check.under_autocast(boxes):
        common = torch.float32
    return _op(
        boxes.detach(), target_boxes.detach(), None if logits is None else logits.detach(), labels,
        mask, cls_cost or "softmax", cls_weight, l1_weight, iou_weight, iou_kind, box_format, alpha,
        gamma, eps, constant, background_cost, common,
    )  # fmt: skip


def _check_boxes(boxes: Tensor, target_boxes: Tensor) -> None:
    check.floating("boxes", boxes)
    if boxes.dim() != 3 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must have shape (B, N, 4), got {tuple(boxes.shape)}")
    check.floating("target_boxes", target_boxes)
    check.tensor_on("target_boxes", target_boxes, "boxes", boxes)
    if target_boxes.dim() != 3 or target_boxes.shape[::2] != boxes.shape[::2]:
        raise ValueError(
            f"target_boxes must have shape ({len(boxes)}, M, 4), got {tuple(target_boxes.shape)}"
        )


def _check_classes(logits: Tensor, labels: Tensor, boxes: Tensor, shape: torch.Size) -> None:
    check.floating("logits", logits)
    check.tensor_on("logits", logits, "boxes", boxes)
    if logits.dim() != 3 or logits.shape[:2] != boxes.shape[:2] or logits.shape[2] == 0:
        raise ValueError(
            f"logits must have shape ({boxes.shape[0]}, {boxes.shape[1]}, C) with at least one "
            f"class, got {tuple(logits.shape)}"
        )
    check.tensor_on("labels", labels, "boxes", boxes)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be of an integer dtype, got {labels.dtype}")
    if labels.shape != shape:
        raise ValueError(f"labels must have shape {tuple(shape)}, got {tuple(labels.shape)}")


def _number(name: str, value: float, double: bool) -> float:
    """`value` as a float; raise unless it is finite in the precision that costs are computed in."""
    value = check.number(name, value)
    largest = torch.finfo(torch.float64 if double else torch.float32).max
    if abs(value) > largest:
        raise ValueError(f"{name} must be finite in float32, got {value}")
    return value
