r"""Cost of matching each of N predictions with each of M targets of an image, as set prediction
(DETR and its successors) and optimal transport use it.

    cost = cls_weight * class + (l1_weight * sum |box - target| - iou_weight * iou) + constant

with x the logits of a prediction, y the class of a target, p = softmax(x)_y or sigmoid(x_y):

    class  softmax        -p
           nll            -ln p
           sigmoid_focal  a (1 - p)^gamma (-ln(p + e)) - b p^gamma (-ln(1 - p + e)),  e = 1e-8,
                          a = alpha and b = 1 - alpha, or both 1 if alpha < 0

The sum of distances is over the four coordinates of `box_format`; iou is a kind of `box_similarity`
on the corners, with one `eps` for both of its. A term of weight 0 is not computed.

Edge rules: a term and each sum of terms saturate at the largest number of the dtype. The cost is
UNMATCHABLE, or the largest number of the result's dtype if that is smaller, where the formula is
not finite: a coordinate that is not finite, NaN as a logit or infinity as the largest one, -ln 0 (a
logit of -inf is a class of probability 0). Columns of padding are 0, whatever they hold. A column
whose label is no class is NaN, see `check`. With a `background_cost` one more, last column holds
it.

Sources: Carion et al. arXiv 2005.12872 (DETR), Zhu et al. arXiv 2010.04159 (Deformable DETR: the
focal cost), De Plaen et al. CVPR 2023 (uotod: the background column); mmdet 3.3.0
`models/task_modules/assigners/match_cost.py`.
"""

import torch
from torch import Tensor

from . import box_similarity
from ._boxes import scaled

CLASS_COSTS = ("softmax", "nll", "sigmoid_focal")
BOX_FORMATS = ("xyxy", "cxcywh")
KINDS = box_similarity.KINDS
FOCAL_EPS = 1e-8
# Far above any cost of boxes in pixels, and small enough that sums with it in double precision keep
# seven digits after the point.
UNMATCHABLE = 1e9


def check(
    boxes: Tensor,
    target_boxes: Tensor,
    logits: Tensor | None,
    labels: Tensor | None,
    mask: Tensor | None,
    *rest: object,
) -> None:
    """Raise IndexError for the first label of a target that is no class; reads their values."""
    if logits is None:
        return
    bad = ~_is_class(labels.long(), logits)
    position = (bad if mask is None else bad & mask).flatten().nonzero()
    if len(position):
        i = int(position[0])
        raise IndexError(
            f"labels must hold class indices in [0, {logits.shape[-1] - 1}] where mask is True; "
            f"got {int(labels.flatten()[i])} at index {i}"
        )


def _is_class(labels: Tensor, logits: Tensor) -> Tensor:
    return (labels >= 0) & (labels < logits.shape[-1])


def _bounded(x: Tensor) -> Tensor:
    """x, with the largest number of its dtype in the place of infinity."""
    largest = torch.finfo(x.dtype).max
    return x.clamp(-largest, largest)


def _class_cost(
    x: Tensor,  # (B, N, C)
    labels: Tensor,  # (B, M), all in [0, C)
    kind: str,
    alpha: float,
    gamma: float,
) -> Tensor:
    """(B, N, M)"""
    index = labels[:, None, :].expand(-1, x.shape[1], -1)
    if kind == "softmax":
        return -x.softmax(-1).gather(-1, index)
    own = x.gather(-1, index)  # (B, N, M)
    if kind == "nll":
        # Infinite where finite logits are far apart, which saturates, and at -inf.
        return _bounded(-x.log_softmax(-1).gather(-1, index)) + 0 * own
    p, q = own.sigmoid(), (-own).sigmoid()
    positive = q.pow(gamma) * -(p + FOCAL_EPS).log()
    negative = p.pow(gamma) * -(q + FOCAL_EPS).log()
    return positive - negative if alpha < 0 else alpha * positive - (1 - alpha) * negative


def _corners(boxes: Tensor, box_format: str) -> Tensor:
    """xyxy (*, 4)"""
    if box_format == "xyxy":
        return boxes
    centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return torch.cat((centre - half, centre + half), -1)


def _box_cost(
    boxes: Tensor,  # (B, N, 4)
    target_boxes: Tensor,  # (B, M, 4)
    l1_weight: float,
    iou_weight: float,
    iou_kind: str,
    box_format: str,
    eps: float,
) -> Tensor:
    """(B, N, M)"""
    boxes, target_boxes = boxes[:, :, None, :], target_boxes[:, None, :, :]
    # The factor s keeps products finite for boxes of any size; poison is 0 or NaN.
    p, t, s, poison = scaled(boxes, target_boxes)
    cost = poison
    if l1_weight:
        cost = cost + _bounded(l1_weight * _bounded((boxes - target_boxes).abs().sum(-1)))
    if iou_weight:
        p, t = _corners(p, box_format), _corners(t, box_format)
        iou = box_similarity.similarity(p, t, s.squeeze(-1), iou_kind, eps, eps)
        cost = cost + _bounded(-iou_weight * iou)
    return _bounded(cost)


def forward(
    boxes: Tensor,  # (B, N, 4)
    target_boxes: Tensor,  # (B, M, 4)
    logits: Tensor | None,  # (B, N, C); None: no class term
    labels: Tensor | None,  # (B, M)
    mask: Tensor | None,  # (B, M) bool, False for padding
    cls_cost: str,
    cls_weight: float,
    l1_weight: float,
    iou_weight: float,
    iou_kind: str,
    box_format: str,
    alpha: float,
    gamma: float,
    eps: float,
    constant: float,
    background_cost: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """(B, N, M), or (B, N, M + 1) with a background."""
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    batch, rows, columns = *boxes.shape[:2], target_boxes.shape[1]
    cost = boxes.new_zeros((batch, rows, columns), dtype=compute)
    if l1_weight or iou_weight:
        boxes, target_boxes = boxes.to(compute), target_boxes.to(compute)
        cost = _box_cost(boxes, target_boxes, l1_weight, iou_weight, iou_kind, box_format, eps)
    if logits is not None:
        labels = labels.long()
        is_class = _is_class(labels, logits)
        known = torch.where(is_class, labels, 0)
        cost = cost + _bounded(
            cls_weight * _class_cost(logits.to(compute), known, cls_cost, alpha, gamma)
        )
    cost = cost + constant
    largest = torch.finfo(dtype).max
    cost = torch.where(cost.isnan(), min(UNMATCHABLE, largest), cost.clamp(-largest, largest))
    if logits is not None:
        cost = torch.where(is_class[:, None, :], cost, torch.nan)
    if mask is not None:
        cost = torch.where(mask[:, None, :], cost, 0)
    if background_cost is not None:
        background = max(-largest, min(background_cost, largest))
        cost = torch.cat((cost, cost.new_full((batch, rows, 1), background)), -1)
    return cost.to(dtype).contiguous()
