"""Classification losses on sigmoid scores, as detection libraries write them.

Focal loss: Lin et al. 2017; quality focal loss: Li et al. 2020 (GFL); varifocal loss: Zhang et al.
2021; Gaussian focal loss: Law and Deng 2018 (CornerNet), Zhou et al. 2019 (CenterNet).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines import reduce_weighted


def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    weight: Tensor | None,
    avg_factor: float,
) -> Tensor:
    """logits: (N, C); target: (N, C) one-hot, or class ids (N,) with background = C; weight: (N, 1)
    or (N, C)."""
    if target.dim() < logits.dim():
        classes = logits.shape[1]
        target = F.one_hot(target, classes + 1)[:, :classes]
    target = target.to(logits.dtype)
    prob = logits.sigmoid()
    # One minus the probability of the true side.
    miss = (1 - prob) * target + prob * (1 - target)
    modulation = (alpha * target + (1 - alpha) * (1 - target)) * miss.pow(gamma)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * modulation
    return reduce_weighted(loss, weight, avg_factor)


def quality_focal_loss(
    logits: Tensor,
    target: tuple[Tensor, Tensor],
    *,
    beta: float = 2.0,
    weight: Tensor | None,
    avg_factor: float,
) -> Tensor:
    """logits: (N, C); target: class ids (N,) with background = C, and quality scores (N,); weight:
    (N,)."""
    labels, scores = target
    prob = logits.sigmoid()
    zeros = torch.zeros_like(logits)
    loss = F.binary_cross_entropy_with_logits(logits, zeros, reduction="none") * prob.pow(beta)
    rows = ((labels >= 0) & (labels < logits.shape[1])).nonzero().squeeze(1)
    columns = labels[rows]
    gap = (scores[rows] - prob[rows, columns]).abs()
    positive = F.binary_cross_entropy_with_logits(
        logits[rows, columns], scores[rows], reduction="none"
    )
    loss[rows, columns] = positive * gap.pow(beta)
    return reduce_weighted(loss.sum(dim=1), weight, avg_factor)


def varifocal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    weight: Tensor | None,
    avg_factor: float,
) -> Tensor:
    """logits, target: (N, C), the target being the IoU at the true class and 0 elsewhere."""
    prob = logits.sigmoid()
    positive = (target > 0).to(logits.dtype)
    negative = (target <= 0).to(logits.dtype)
    modulation = target * positive + alpha * (prob - target).abs().pow(gamma) * negative
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * modulation
    return reduce_weighted(loss, weight, avg_factor)


def gaussian_focal_loss(
    probs: Tensor,
    target: Tensor,
    *,
    alpha: float = 2.0,
    gamma: float = 4.0,
    weight: Tensor | None,
    avg_factor: float,
) -> Tensor:
    """probs, target: (B, C, H, W); a cell is positive where its target is exactly 1."""
    eps = 1e-12
    positive = target.eq(1)
    tail = (1 - target).pow(gamma)
    loss_positive = -(probs + eps).log() * (1 - probs).pow(alpha) * positive
    loss_negative = -(1 - probs + eps).log() * probs.pow(alpha) * tail
    return reduce_weighted(loss_positive + loss_negative, weight, avg_factor)


def binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    weight: Tensor | None,
    avg_factor: float,
) -> Tensor:
    """logits, target: (N, C); entries that are negative or equal ignore_index do not count."""
    valid = ((target >= 0) & (target != ignore_index)).to(logits.dtype)
    weight = valid if weight is None else weight * valid
    loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return reduce_weighted(loss, weight, avg_factor)
