"""The three losses as they are usually written in plain PyTorch, with autograd for the gradient."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def sigmoid_focal_loss(
    logits: torch.Tensor,  # (N, C)
    labels: torch.Tensor,  # (N,) class ids, C is background
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> torch.Tensor:
    """Focal loss (Lin et al. 2017), (N, C)."""
    classes = logits.shape[1]
    target = F.one_hot(labels, classes + 1)[:, :classes].to(logits.dtype)  # (N, C)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = probability * target + (1 - probability) * (1 - target)  # of the true answer
    balance = alpha * target + (1 - alpha) * (1 - target)
    return balance * (1 - right) ** gamma * entropy


def giou_loss(boxes: torch.Tensor, target: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """1 - generalized IoU (Rezatofighi et al. 2019) of aligned xyxy boxes, (N, 4) -> (N,)."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])  # (N,)
    target_area = (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1])
    overlap = torch.min(boxes[:, 2:], target[:, 2:]) - torch.max(boxes[:, :2], target[:, :2])
    overlap = overlap.clamp(min=0)  # (N, 2)
    intersection = overlap[:, 0] * overlap[:, 1]
    union = (area + target_area - intersection).clamp(min=eps)
    hull = torch.max(boxes[:, 2:], target[:, 2:]) - torch.min(boxes[:, :2], target[:, :2])
    hull_area = (hull[:, 0] * hull[:, 1]).clamp(min=eps)
    return 1 - intersection / union + (hull_area - union) / hull_area


def smooth_l1_loss(boxes: torch.Tensor, target: torch.Tensor, beta: float) -> torch.Tensor:
    """Huber-like distance of each coordinate, (N, 4)."""
    return F.smooth_l1_loss(boxes, target, beta=beta, reduction="none")
