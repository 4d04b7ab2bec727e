"""The losses as they are usually written in plain PyTorch, with autograd for the gradient."""

from __future__ import annotations

import torch
from torch.nn import functional as F

IGNORED = -100


def dice_loss(
    logits: torch.Tensor,  # (B, C, H, W)
    target: torch.Tensor,  # (B, H, W) class ids
    smooth: float = 1.0,
) -> torch.Tensor:
    """1 - Dice over the batch (Milletari et al. 2016), mean over classes; absent ones count 0."""
    p = logits.softmax(1)
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(p.dtype)  # (B, C, H, W)
    overlap = (p * truth).sum((0, 2, 3))  # (C,)
    total = (p + truth).sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    return ((1 - (2 * overlap + smooth) / (total + smooth)) * present).mean()


def lovasz_softmax(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Lovász-Softmax (Berman et al. 2018) over the batch, mean over the classes present: a sort of
    all pixels for every class."""
    p = logits.softmax(1).movedim(1, -1).flatten(0, -2)  # (pixels, C)
    labels = target.flatten()
    losses = []
    for c in range(p.shape[1]):
        truth = (labels == c).to(p.dtype)
        if truth.sum() == 0:
            continue
        errors, order = (truth - p[:, c]).abs().sort(descending=True)
        losses.append(torch.dot(errors, _jaccard_steps(truth[order])))
    return sum(losses) / len(losses)


def _jaccard_steps(truth: torch.Tensor) -> torch.Tensor:
    """How much the Jaccard loss grows with each pixel that becomes wrong, worst first."""
    positives = truth.sum()
    jaccard = 1 - (positives - truth.cumsum(0)) / (positives + (1 - truth).cumsum(0))
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def boundary_loss(
    logits: torch.Tensor, target: torch.Tensor, theta0: int = 3, theta: int = 5
) -> torch.Tensor:
    """1 - F1 of soft boundaries (Bokhovkin and Burnaev 2019), mean over images and classes."""
    p = logits.softmax(1)
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(p.dtype)
    edge = _pool(1 - p, theta0) - (1 - p)  # (B, C, H, W)
    true_edge = _pool(1 - truth, theta0) - (1 - truth)
    precision = (edge * _pool(true_edge, theta)).sum((2, 3)) / (edge.sum((2, 3)) + 1e-7)
    recall = (_pool(edge, theta) * true_edge).sum((2, 3)) / (true_edge.sum((2, 3)) + 1e-7)
    return (1 - 2 * precision * recall / (precision + recall + 1e-7)).mean()


def _pool(x: torch.Tensor, window: int) -> torch.Tensor:
    return F.max_pool2d(x, window, stride=1, padding=(window - 1) // 2)


def ohem_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, thresh: float, min_kept: int
) -> torch.Tensor:
    """Cross entropy of the hard pixels alone (Shrivastava et al. 2016, as in OCNet)."""
    hard = hard_pixels(logits, target, thresh, min_kept)
    return F.cross_entropy(logits, target.masked_fill(~hard, IGNORED), ignore_index=IGNORED)


@torch.no_grad()
def hard_pixels(
    logits: torch.Tensor, target: torch.Tensor, thresh: float, min_kept: int
) -> torch.Tensor:
    """(B, H, W) bool: the probability of the true class is at most `thresh`, or among the
    `min_kept` smallest."""
    p = logits.softmax(1).gather(1, target[:, None])[:, 0]  # (B, H, W)
    if min_kept:
        order = p.flatten().argsort()
        thresh = max(thresh, p.flatten()[order[min(min_kept, p.numel()) - 1]].item())
    return p <= thresh
