"""Seesaw loss: Wang et al. 2021."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def seesaw_ce_loss(
    cls_score: Tensor,
    labels: Tensor,
    label_weights: Tensor,
    cum_samples: Tensor,
    num_classes: int,
    p: float,
    q: float,
    eps: float,
) -> Tensor:
    """cls_score: (N, C); labels, label_weights: (N,); cum_samples: (C,); the mean over N."""
    count = cum_samples.clamp(min=1)
    mitigation = (count / count[labels][:, None]).clamp(max=1).pow(p)  # (N, C)
    score = cls_score.detach().softmax(1)
    own = score.gather(1, labels[:, None]).clamp(min=eps)
    compensation = (score / own).clamp(min=1).pow(q)
    others = 1 - F.one_hot(labels, num_classes).to(cls_score.dtype)
    logits = cls_score + (mitigation * compensation).log() * others
    loss = F.cross_entropy(logits, labels, reduction="none")
    return (loss * label_weights).sum() / torch.numel(labels)
