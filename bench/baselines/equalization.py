"""Equalization loss v2: Tan et al. 2021."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def equalization_loss(
    cls_score: Tensor, label: Tensor, *, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """cls_score (N, C), label (N) -> the loss of the first step, and the gradients of positives and
    of negatives that it collects, (C)."""
    ratio = torch.full((cls_score.shape[1] - 1,), 100.0, device=cls_score.device)
    ratio = ratio.to(cls_score.dtype)
    negative = torch.cat([1 / (1 + (-gamma * (ratio - 0.8)).exp()), ratio.new_ones(1)])
    positive = 1 + 4 * (1 - negative)
    target = F.one_hot(label, cls_score.shape[1]).to(cls_score.dtype)
    weight = target * positive + (1 - target) * negative
    losses = F.binary_cross_entropy_with_logits(cls_score, target, reduction="none")
    size = (cls_score.detach().sigmoid() - target).abs() * weight
    sums = (size * target).sum(0), (size * (1 - target)).sum(0)
    return (losses * weight).sum() / len(cls_score), *sums
