"""Class and box losses of predictions that are matched with targets and the background."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._library import register
from ..reference import matched_detection as reference
from . import _arguments as check
from ._segmentation import INDEX_DTYPES, class_weight_of, result_dtype
from .hard_negative_mask import hard_negative_mask

_op = register(
    "matched_detection",
    "(Tensor logits, Tensor boxes, Tensor labels, Tensor target_boxes, Tensor matching, "
    "Tensor? mask, Tensor? class_weight, str cls_loss, int background, float alpha, float gamma, "
    "str distance, float beta, float distance_weight, str iou_kind, float iou_weight, float eps)",
    reference.forward,
    reference.backward,
    differentiable=("logits", "boxes"),
    check=reference.check,
)


def matched_detection(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    matching: Tensor,
    mask: Tensor | None = None,
    *,
    cls_loss: str = "cross_entropy",
    cls_weight: float = 1.0,
    class_weight: Tensor | Sequence[float] | None = None,
    background: int = 0,
    alpha: float = -1.0,
    gamma: float = 2.0,
    distance: str = "l1",
    beta: float = 1.0,
    distance_weight: float = 5.0,
    iou_kind: str = "giou",
    iou_weight: float = 2.0,
    eps: float = 1e-7,
    neg_to_pos_ratio: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Detection loss of N predictions for a matching with the M targets of their image.

    With the mass :math:`m_{ij}` of prediction i at target j, :math:`m_{i0}` at the background and
    the class weights w, per prediction

    .. math::
        c_i = \sum_j m_{ij} w_{y_j} \ell(x_i, y_j), \quad n_i = m_{i0} w_0 \ell(x_i, y_0), \quad
        b_i = \sum_j m_{ij} \left( \mathrm{distance\_weight} \sum_k d(b_{ik} - t_{jk})
        + \mathrm{iou\_weight} (1 - \mathrm{IoU}(b_i, t_j)) \right)

    and "mean" is :math:`\mathrm{cls\_weight} \sum (c_i + n_i) / (P + N) + \sum b_i / P` with the
    masses :math:`P = \max(1, \sum m_{ij} w_{y_j})` of the positives and :math:`N = w_0 \sum m_{i0}`
    of the negatives, N = 0 without a class for the background or with hard negative mining. The
    matching may be dense (optimal transport) or one-hot (assignment); nothing is made for each pair
    but what is given, and of the size of the logits nothing but their gradient. Edge rules and
    sources: `fastloss/reference/matched_detection.py`.

    Args:
        logits: (B, N, C), floating point, at least one class.
        boxes: (B, N, 4), x1 y1 x2 y2, floating point.
        labels: (B, M), any integer dtype, in [0, C); with "sigmoid_focal" C means no class.
        target_boxes: (B, M, 4), likewise.
        matching: (B, N, M + 1), floating point, >= 0; the background is the last column.
        mask: (B, M), bool, False for padding, which may be anywhere; None: every target is real.
        cls_loss: "cross_entropy", "negative_prob" (both of a softmax) or "sigmoid_focal".
        cls_weight: Factor of the class losses, >= 0.
        class_weight: w, (C,), tensor or numbers, for the losses of a softmax; None for ones.
        background: Class of the background, in [-C, C), negative ones from the end; without a
            meaning for "sigmoid_focal", whose background is no class.
        alpha: Weight of the right class in the focal loss, 1 - alpha that of the others, <= 1;
            negative: all have weight 1.
        gamma: Exponent of the focal loss, >= 0.
        distance: d, "l1", "smooth_l1" or "mse", see `regression_loss`.
        beta: Where "smooth_l1" turns from square to linear, > 0.
        distance_weight, iou_weight: Any number; a term of weight 0 is not computed.
        iou_kind: "iou", "giou", "diou" or "ciou", as in `pairwise_iou`.
        eps: Of the IoU, as in `pairwise_iou`, >= 0.
        neg_to_pos_ratio: Hard negative mining: in each image the background losses count in
            descending order as long as their mass is at most this many times that of its positives.
        reduction: "mean", "sum" (of c, n and b) or "none".

    Returns:
        A scalar, or (B, N) for "none", the sum of the three parts of each prediction; in the common
        dtype of logits and boxes (float32 for half inputs under autocast). Differentiable in both.

    Raises:
        TypeError, ValueError: an argument is not as described, or a target, matching or class
            weight requires a gradient, which it does not have here.
        IndexError: on the CPU, a label of a target that is no class. (On a GPU the loss is NaN if
            anything is matched with it.)
    """
    _check_predictions(logits, boxes)
    check.choice("cls_loss", cls_loss, reference.CLASS_LOSSES)
    check.choice("distance", distance, reference.DISTANCES)
    check.choice("iou_kind", iou_kind, reference.IOU_KINDS)
    check.choice("reduction", reduction, check.REDUCTIONS)
    _check_targets(labels, target_boxes, mask, boxes)
    _check_matching(matching, target_boxes, boxes)
    cls_weight = check.at_least("cls_weight", cls_weight, 0)
    focal = cls_loss == "sigmoid_focal"
    weight = class_weight_of(logits.transpose(1, 2), class_weight)
    if focal and weight is not None:
        raise ValueError('class_weight is for the losses of a softmax, got it with "sigmoid_focal"')
    background = -1 if focal else _class_index(background, logits.shape[2])
    if check.number("alpha", alpha) > 1:
        raise ValueError(f"alpha must be <= 1, got {alpha}")
    options = (
        cls_loss, background, float(alpha), check.at_least("gamma", gamma, 0), distance,
        check.at_least("beta", beta, 0, strict=True),
        check.number("distance_weight", distance_weight), iou_kind,
        check.number("iou_weight", iou_weight), check.at_least("eps", eps, 0),
    )  # fmt: skip
    if neg_to_pos_ratio is not None:
        neg_to_pos_ratio = check.at_least("neg_to_pos_ratio", neg_to_pos_ratio, 0)

    logits, boxes = check.promote(logits, boxes)
    labels = labels if labels.dtype in INDEX_DTYPES else labels.long()
    rows = _op(logits, boxes, labels, target_boxes, matching, mask, weight, *options)
    background_weight = 0 if focal else 1 if weight is None else weight[background]
    at_background = matching[..., -1].contiguous()  # a sum has one order whatever the strides
    loss = reduce_rows(
        rows.unbind(), at_background, background_weight, neg_to_pos_ratio, reduction, cls_weight
    )
    return loss.to(result_dtype(logits))


def reduce_rows(
    rows: Sequence[Tensor],
    at_background: Tensor,
    background_weight: float | Tensor,
    neg_to_pos_ratio: float | None,
    reduction: str,
    cls_weight: float = 1.0,
) -> Tensor:
    """The loss from what it is for each prediction, `reference.ROWS`, and the mass of each at the
    background, all (B, N); a background of weight 0 does not count in the mean."""
    classes, negatives, pairs, matched, weighted = rows
    if neg_to_pos_ratio is not None:
        budget = neg_to_pos_ratio * matched.sum(1, dtype=torch.float64)
        hard = hard_negative_mask(negatives, at_background, budget)
        negatives = torch.where(hard, negatives, 0)
    if reduction == "none":
        return cls_weight * (classes + negatives) + pairs
    class_sum, box_sum = cls_weight * (classes.sum() + negatives.sum()), pairs.sum()
    if reduction == "sum":
        return class_sum + box_sum
    positives = weighted.sum().clamp(min=1)
    counted = positives
    if neg_to_pos_ratio is None:
        counted = counted + at_background.sum(dtype=weighted.dtype) * background_weight
    return class_sum / counted + box_sum / positives


def _check_predictions(logits: Tensor, boxes: Tensor) -> None:
    check.floating("logits", logits)
    if logits.dim() != 3 or logits.shape[2] == 0:
        raise ValueError(
            f"logits must have shape (B, N, C) with at least one class, got {tuple(logits.shape)}"
        )
    check.floating("boxes", boxes)
    check.tensor_on("boxes", boxes, "logits", logits)
    if boxes.shape != (*logits.shape[:2], 4):
        raise ValueError(
            f"boxes must have shape {(*logits.shape[:2], 4)}, got {tuple(boxes.shape)}"
        )


def _check_targets(labels: Tensor, target_boxes: Tensor, mask: Tensor | None, like: Tensor) -> None:
    check.floating("target_boxes", target_boxes)
    check.tensor_on("target_boxes", target_boxes, "boxes", like)
    if target_boxes.dim() != 3 or target_boxes.shape[::2] != like.shape[::2]:
        raise ValueError(
            f"target_boxes must have shape ({len(like)}, M, 4), got {tuple(target_boxes.shape)}"
        )
    check.tensor_on("labels", labels, "boxes", like)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be of an integer dtype, got {labels.dtype}")
    if labels.shape != target_boxes.shape[:2]:
        raise ValueError(
            f"labels must have shape {tuple(target_boxes.shape[:2])}, got {tuple(labels.shape)}"
        )
    if mask is not None:
        check.mask("mask", mask, labels.shape, "boxes", like)
    _no_gradient("target_boxes", target_boxes)


def _check_matching(matching: Tensor, target_boxes: Tensor, boxes: Tensor) -> None:
    check.floating("matching", matching)
    check.tensor_on("matching", matching, "boxes", boxes)
    shape = (*boxes.shape[:2], target_boxes.shape[1] + 1)
    if matching.shape != shape:
        raise ValueError(
            f"matching must have shape {shape}, the last column for the background, "
            f"got {tuple(matching.shape)}"
        )
    _no_gradient("matching", matching)


def _no_gradient(name: str, value: Tensor) -> None:
    if value.requires_grad:
        raise ValueError(f"{name} has no gradient here: pass {name}.detach()")


def _class_index(value: int, classes: int) -> int:
    """`value` as an index from 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"background must be an integer, got {type(value).__name__}")
    if not -classes <= value < classes:
        raise ValueError(f"background must be in [{-classes}, {classes}), got {value}")
    return value % classes
