"""Element-wise L1, smooth L1 (Girshick 2015), balanced L1 (Pang et al. 2019), squared error."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.baselines import reduce_weighted


def _smooth_l1(pred: Tensor, target: Tensor, beta: float) -> Tensor:
    distance = (pred - target).abs()
    return torch.where(distance < beta, 0.5 * distance * distance / beta, distance - 0.5 * beta)


def _balanced_l1(
    pred: Tensor, target: Tensor, beta: float, alpha: float = 0.5, gamma: float = 1.5
) -> Tensor:
    distance = (pred - target).abs()
    b = math.exp(gamma / alpha) - 1
    near = alpha / b * (b * distance + 1) * torch.log(b * distance / beta + 1) - alpha * distance
    return torch.where(distance < beta, near, gamma * distance + gamma / b - alpha * beta)


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
    elif kind == "balanced_l1":
        loss = _balanced_l1(pred, target, beta)
    else:
        loss = _smooth_l1(pred, target, beta)
    return reduce_weighted(loss, weight, avg_factor)
