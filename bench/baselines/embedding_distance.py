"""Embedding distance with hard negatives: Pang et al. 2021 (QDTrack)."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_distance(
    pred: Tensor, target: Tensor, *, neg_pos_ub: float, pos_margin: float, neg_margin: float
) -> Tensor:
    """pred, target: (N, M), of which the target 1 is a positive pair and 0 a negative one."""
    positive, negative = target == 1, target == 0
    pred = pred - pos_margin * positive - neg_margin * negative
    losses = (pred.clamp(0, 1) - target).square()
    kept = int(max(int(positive.sum()), 1) * neg_pos_ub)
    if negative.sum() > kept:
        costs = losses.detach()[negative]
        chosen = torch.zeros_like(costs)
        chosen[costs.topk(kept).indices] = 1
        weight = torch.ones_like(losses)
        weight[negative] = chosen
    else:
        weight = torch.ones_like(losses)
    return (losses * weight).sum() / (weight > 0).sum()
