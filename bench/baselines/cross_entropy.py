"""Softmax cross entropy of rows, with a weight of each."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bench.baselines import reduce_weighted


def cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor, avg_factor: float) -> Tensor:
    """logits: (N, C); target: (N,)."""
    return reduce_weighted(F.cross_entropy(logits, target, reduction="none"), weight, avg_factor)
