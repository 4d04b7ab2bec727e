"""Dice loss of masks: Milletari et al. 2016 (V-Net)."""

from __future__ import annotations

from torch import Tensor


def mask_dice_loss(logits: Tensor, target: Tensor, *, squared: bool, eps: float) -> Tensor:
    """logits, target: (N, *)."""
    p, t = logits.sigmoid().flatten(1), target.flatten(1).to(logits.dtype)
    product = (p * t).sum(1)
    if squared:
        dice = 2 * product / (p.square().sum(1) + t.square().sum(1) + 2 * eps)
    else:
        dice = (2 * product + eps) / (p.sum(1) + t.sum(1) + eps)
    return (1 - dice).mean()
