"""The cost of matching predictions with targets, as DETR (Carion et al. 2020) and Deformable DETR
(Zhu et al. 2020) write it, for all images of a batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.baselines.pairwise_iou import pairwise_iou


def matching_cost(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    mask: Tensor,
    *,
    cls_cost: str,
    cls_weight: float,
    l1_weight: float,
    iou_weight: float,
    box_format: str,
) -> Tensor:
    """logits: (B, N, C); boxes: (B, N, 4) cxcywh; labels: (B, M); target_boxes: (B, M, 4); mask:
    (B, M), False for padding, whose columns of the result (B, N, M) are 0."""
    index = labels[:, None, :].expand(-1, logits.shape[1], -1)  # (B, N, M)
    if cls_cost == "softmax":
        cost = -logits.softmax(-1).gather(-1, index)
    else:
        cost = _focal(logits.gather(-1, index))
    distance = (boxes[:, :, None] - target_boxes[:, None]).abs().sum(-1)
    iou = pairwise_iou(_corners(boxes), _corners(target_boxes), kind="giou", eps=1e-7)
    cost = cls_weight * cost + l1_weight * distance - iou_weight * iou
    return cost * mask[:, None, :]


def _focal(x: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    p = x.sigmoid()
    positive = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
    negative = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
    return positive - negative


def _corners(boxes: Tensor) -> Tensor:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)
