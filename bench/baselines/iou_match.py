"""Max-IoU assignment by the matrix of IoUs, image by image, as mmdet's MaxIoUAssigner does it."""

from __future__ import annotations

import torch
from torch import Tensor


def iou_match(
    boxes: Tensor,  # (N, 4) xyxy, for all images
    target_boxes: Tensor,  # (B, M, 4) xyxy
    *,
    positive: float,
    negative: float,
    min_positive: float = 0.0,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """The target of each box (B, N), -1 negative, -2 ignored, and its IoU (B, N)."""
    indices, ious = [], []
    for targets in target_boxes:
        iou = _iou(boxes, targets, eps)  # (N, M)
        best, own = iou.max(1)
        top = iou.amax(0)
        index = torch.full_like(own, -2).masked_fill(best < negative, -1)
        index = torch.where(best >= positive, own, index)
        # mmdet goes through the targets, so that the last one that a box is the best of takes it.
        takes = (iou == top) & (top >= min_positive)
        number = torch.arange(len(targets), device=boxes.device)
        last = torch.where(takes, number, -1).amax(1)
        indices.append(torch.where(last >= 0, last, index))
        ious.append(best)
    return torch.stack(indices), torch.stack(ious)


def _iou(boxes: Tensor, targets: Tensor, eps: float) -> Tensor:
    first, last = boxes[:, None, :2], boxes[:, None, 2:]
    extent = torch.min(last, targets[:, 2:]) - torch.max(first, targets[:, :2])
    extent = extent.clamp(min=0)  # (N, M, 2)
    inter = extent[..., 0] * extent[..., 1]
    union = _area(boxes)[:, None] + _area(targets) - inter
    return inter / union.clamp(min=eps)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
