"""Losses with harmonized gradients: Li et al. 2019 (GHM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ghm_classification_loss(logits: Tensor, target: Tensor, weight: Tensor, *, bins: int) -> Tensor:
    """logits, target, weight: (N, C); valid where weight > 0."""
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    length = (logits.detach().sigmoid() - target).abs()
    return _harmonized(losses, length, weight > 0, bins, last=1 + 1e-6)


def ghm_regression_loss(
    pred: Tensor, target: Tensor, weight: Tensor, *, bins: int, mu: float
) -> Tensor:
    """pred, target, weight: (N, 4); valid where weight > 0."""
    difference = pred - target
    root = (difference.square() + mu**2).sqrt()
    length = (difference / root).abs().detach()
    return _harmonized(root - mu, length, weight > 0, bins, last=1e3)


def _harmonized(losses: Tensor, length: Tensor, valid: Tensor, bins: int, last: float) -> Tensor:
    """The mean of the valid losses, each over the share of its bin."""
    edges = torch.arange(bins + 1, device=losses.device, dtype=torch.float32) / bins
    edges[-1] = last
    weights, filled = torch.zeros_like(losses), 0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (length >= low) & (length < high) & valid
        count = inside.sum()
        weights = torch.where(inside, 1 / count.clamp(min=1), weights)
        filled = filled + (count > 0)
    return (losses * weights).sum() / filled
