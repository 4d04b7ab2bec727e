"""Boundary loss: Bokhovkin and Burnaev 2019, with one max_pool2d for each map and each window."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def boundary_loss(logits: Tensor, target: Tensor, *, theta0: int = 3, theta: int = 5) -> Tensor:
    """logits: (N, C, H, W); target: class ids (N, H, W)."""
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    predicted, predicted_wide = _boundaries(logits.softmax(dim=1), theta0, theta)
    true, true_wide = _boundaries(truth, theta0, theta)
    precision = (predicted * true_wide).sum((2, 3)) / (predicted.sum((2, 3)) + 1e-7)  # (N, C)
    recall = (predicted_wide * true).sum((2, 3)) / (true.sum((2, 3)) + 1e-7)
    return (1 - 2 * precision * recall / (precision + recall + 1e-7)).mean()


def _boundaries(maps: Tensor, theta0: int, theta: int) -> tuple[Tensor, Tensor]:
    """The boundaries of maps (N, C, H, W), and the same made wider."""
    boundary = F.max_pool2d(1 - maps, theta0, stride=1, padding=theta0 // 2) - (1 - maps)
    return boundary, F.max_pool2d(boundary, theta, stride=1, padding=theta // 2)
