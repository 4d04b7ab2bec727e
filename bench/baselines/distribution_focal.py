"""Distribution focal loss: Li et al. 2020 (GFL)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bench.baselines import reduce_weighted


def distribution_focal_loss(
    logits: Tensor, target: Tensor, *, weight: Tensor, avg_factor: float
) -> Tensor:
    """logits: (N, n + 1); target: (N,) in [0, n); weight: (N,)."""
    left = target.long()
    share = target - left
    of_left = F.cross_entropy(logits, left, reduction="none")
    of_right = F.cross_entropy(logits, left + 1, reduction="none")
    return reduce_weighted((1 - share) * of_left + share * of_right, weight, avg_factor)
