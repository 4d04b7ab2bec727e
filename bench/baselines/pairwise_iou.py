"""IoU, GIoU, DIoU and CIoU of all pairs of two sets of boxes, broadcast as detection libraries do
it.

GIoU: Rezatofighi et al. 2019; DIoU and CIoU: Zheng et al. 2020. The places of eps follow mmdet 3.3:
a floor under union and hull for IoU and GIoU, an addend for the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pairwise_iou(boxes1: Tensor, boxes2: Tensor, *, kind: str, eps: float) -> Tensor:
    """boxes1: (*, N, 4) xyxy; boxes2: (*, M, 4) xyxy; the result is (*, N, M)."""
    first, second = boxes1[..., :, None, :], boxes2[..., None, :, :]
    extent = torch.min(first[..., 2:], second[..., 2:]) - torch.max(first[..., :2], second[..., :2])
    extent = extent.clamp(min=0)  # (*, N, M, 2)
    inter = extent[..., 0] * extent[..., 1]  # (*, N, M)
    union = _area(boxes1)[..., :, None] + _area(boxes2)[..., None, :] - inter
    if kind == "iou":
        return inter / union.clamp(min=eps)
    hull = torch.max(first[..., 2:], second[..., 2:]) - torch.min(first[..., :2], second[..., :2])
    hull = hull.clamp(min=0)  # (*, N, M, 2)
    if kind == "giou":
        union = union.clamp(min=eps)
        hull_area = (hull[..., 0] * hull[..., 1]).clamp(min=eps)
        return inter / union - (hull_area - union) / hull_area
    iou = inter / (union + eps)
    diagonal = hull[..., 0] ** 2 + hull[..., 1] ** 2 + eps
    shift = (second[..., :2] + second[..., 2:]) - (first[..., :2] + first[..., 2:])
    distance = (shift[..., 0] ** 2 + shift[..., 1] ** 2) / 4 / diagonal
    if kind == "diou":
        return iou - distance
    angle = _angle(boxes1, eps)[..., :, None] - _angle(boxes2, eps)[..., None, :]
    v = 4 / math.pi**2 * angle**2
    with torch.no_grad():
        alpha = (iou > 0.5).to(iou.dtype) * v / (1 - iou + v)
    return (iou - (distance + alpha * v)).clamp(min=-1.0, max=1.0)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _angle(boxes: Tensor, eps: float) -> Tensor:
    return torch.atan((boxes[..., 2] - boxes[..., 0]) / (boxes[..., 3] - boxes[..., 1] + eps))
