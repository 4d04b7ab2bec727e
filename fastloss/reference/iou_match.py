r"""Max-IoU assignment: to every box a target, "negative" (-1) or "ignored" (-2).

IoU of a box with a target, in float32 for half precision: I / max(U, eps) with the intersection
:math:`I = \max(\min(x_2) - \max(x_1), 0) \max(\min(y_2) - \max(y_1), 0)` and the union
:math:`U = (A_{box} + A_{target}) - I`, :math:`A = (x_2 - x_1) (y_2 - y_1)`, each operation rounded
once; 0 where both are 0. Pairs with a coordinate beyond 2^60 (float64: 2^500) are scaled first.

    best, own = maximum over the targets, and the first target that has it
    index     = own if best >= positive, else -1 if best < negative, else -2
    low quality: for each target, in order, whose maximum over the boxes is >= min_positive, the
        boxes with exactly this IoU get that target (rule "target") or their `own` (rule "box")

Thresholds are compared in the precision of the IoU. A target that overlaps no box has the maximum
0, which a min_positive of 0 accepts: it takes all boxes with which its IoU is 0, which are all.
Targets that the mask leaves out, or with a coordinate that is not finite, do not exist; without
any, every index is -1 and every IoU 0. A box with a coordinate that is not finite has the IoU NaN
and the index -2, whatever the targets, and counts for none of them.

Source: MaxIoUAssigner of mmdet 3.3.0 (rule "target"; its 0 / -1 / j + 1 are -1 / -2 / j), Matcher
of torchvision, detectron2 and vis4d (rule "box").
"""

import torch
from torch import Tensor

from ._boxes import scaled
from ._reduce import compute_dtype, result_dtype

RULES = ("target", "box")


def _iou(boxes: Tensor, targets: Tensor, eps: float) -> Tensor:
    """Finite boxes (*, N, 4) and (B, M, 4) -> (B, N, M)."""
    p, t, s, _ = scaled(boxes[..., :, None, :], targets[:, None])
    extent = torch.minimum(p[..., 2:], t[..., 2:]) - torch.maximum(p[..., :2], t[..., :2])
    inter = extent.clamp(min=0).prod(-1)  # (B, N, M)
    union = (_area(p) + _area(t)) - inter
    bound = torch.maximum(union, eps * s.squeeze(-1) * s.squeeze(-1))
    return torch.where(bound > 0, inter / bound, 0)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def forward(
    boxes: Tensor,  # (B, N, 4), or (N, 4) for all images, xyxy
    target_boxes: Tensor,  # (B, M, 4) xyxy
    mask: Tensor | None,  # (B, M) bool
    positive: float,
    negative: float,
    min_positive: float,
    low_quality: bool,
    low_quality_index: str,
    eps: float,
    widen: bool,
) -> tuple[Tensor, Tensor]:
    """Index (B, N) int64 and IoU (B, N)."""
    dtype, result = compute_dtype(boxes), result_dtype(boxes, widen)
    boxes, targets = boxes.to(dtype), target_boxes.to(dtype)
    finite = boxes.isfinite().all(-1).expand(len(targets), boxes.shape[-2])  # (B, N)
    real = targets.isfinite().all(-1)  # (B, M)
    real = real if mask is None else real & mask
    count = targets.shape[1]
    if finite.shape[1] == 0 or count == 0:  # no maximum
        best = finite.new_zeros(finite.shape, dtype=dtype)
        index = finite.new_full(finite.shape, -1, dtype=torch.long)
    else:
        iou = _iou(boxes.nan_to_num(0, 0, 0), targets.nan_to_num(0, 0, 0), eps)  # (B, N, M)
        iou = iou.masked_fill(~(finite[:, :, None] & real[:, None]), -1)
        best, own = iou.max(2)
        index = torch.where(best < negative, -1, -2)
        index = torch.where(best >= positive, own, index)
        if low_quality:
            top = iou.amax(1, keepdim=True)  # (B, 1, M)
            equal = (iou == top) & (top >= min_positive) & (top >= 0)
            numbers = torch.arange(count, device=iou.device)
            last = torch.where(equal, numbers, -1).amax(2)  # (B, N)
            index = torch.where(last >= 0, own if low_quality_index == "box" else last, index)
        index = torch.where(real.any(1, keepdim=True), index, -1)
    index = torch.where(finite, index, -2)
    return index, best.clamp(min=0).masked_fill(~finite, torch.nan).to(result)
