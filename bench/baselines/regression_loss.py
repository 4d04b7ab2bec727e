"""Element-wise L1, smooth L1 (Girshick 2015) and squared error."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines import reduce_weighted


def _smooth_l1(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    distance = (pred - target).abs()
    return torch.where(distance < beta, 0.5 * distance * distance / beta, distance - 0.5 * beta)


def regression_loss(
    pred: Tensor,
    target: Tensor,
    *,
    kind: str,
    beta: float = 1.0,
    weight: Tensor | None,
    avg_factor: float,
) -> Tensor:
    """pred, target, weight: any one shape."""
    if kind == "l1":
        loss = (pred - target).abs()
    elif kind == "mse":
        loss = F.mse_loss(pred, target, reduction="none")
    else:
        loss = _smooth_l1(pred, target, beta)
    return reduce_weighted(loss, weight, avg_factor)
