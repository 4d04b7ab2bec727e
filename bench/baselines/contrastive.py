"""Multi-positive cross entropy: Pang et al. 2021 (QDTrack)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.workload import Function


def multi_positive_cross_entropy(
    logits: Tensor, target: Tensor, *, weight: Tensor, avg_factor: float
) -> Tensor:
    """logits, target: (N, M); all pairs of a negative and a positive, as vis4d has it."""
    positive = logits.masked_fill(target == 0, torch.inf)
    negative = logits.masked_fill(target == 1, -torch.inf)
    gaps = negative[:, None, :] - positive[:, :, None]  # (N, M, M)
    loss = F.pad(gaps.flatten(1), (0, 1)).logsumexp(1)
    return (loss * weight).sum() / avg_factor


def of_rows() -> Function:
    """The same from two sums of each row."""

    def loss(logits: Tensor, target: Tensor, *, weight: Tensor, avg_factor: float) -> Tensor:
        negatives = logits.masked_fill(target == 1, -torch.inf).logsumexp(1)
        positives = (-logits).masked_fill(target == 0, -torch.inf).logsumexp(1)
        return (F.softplus(negatives + positives) * weight).sum() / avg_factor

    return loss
