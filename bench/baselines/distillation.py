"""Distillation: Hinton et al. 2015, with the mean over classes of mmdet."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bench.baselines import reduce_weighted


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    weight: Tensor,
    avg_factor: float,
) -> Tensor:
    """logits, teacher_logits: (N, C); weight: (N,)."""
    target = F.softmax(teacher_logits / temperature, dim=1).detach()
    log_p = F.log_softmax(logits / temperature, dim=1)
    loss = F.kl_div(log_p, target, reduction="none").mean(1) * temperature**2
    return reduce_weighted(loss, weight, avg_factor)
