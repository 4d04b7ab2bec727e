"""Lovász losses (Berman et al. 2018), as the authors' code and its copies write them: class by
class a sort of the errors of the valid pixels, and differences of Jaccard losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.workload import Function


def _gradient(positive: Tensor) -> Tensor:
    """The slopes of sorted errors, (*, P), from their labels."""
    total = positive.sum(-1, keepdim=True)
    intersection = total - positive.cumsum(-1)
    union = total + (1 - positive).cumsum(-1)
    jaccard = 1 - intersection / union
    return torch.cat((jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]), -1)


def lovasz_softmax(
    logits: Tensor, target: Tensor, *, ignore_index: int = 255, **method: Any
) -> Tensor:
    """logits: (N, C, *); target: class ids (N, *). The mean over the classes present; the method of
    fastloss has no counterpart here."""
    classes = logits.shape[1]
    probs = logits.softmax(1).movedim(1, -1).reshape(-1, classes)
    labels = target.flatten()
    valid = labels != ignore_index
    probs, labels = probs[valid], labels[valid]
    losses = []
    for c in range(classes):
        positive = (labels == c).to(probs.dtype)
        if positive.sum() == 0:
            continue
        errors, order = torch.sort((positive - probs[:, c]).abs(), descending=True)
        losses.append(torch.dot(errors, _gradient(positive[order])))
    return torch.stack(losses).mean()


def lovasz_hinge(logits: Tensor, target: Tensor, **method: Any) -> Tensor:
    """logits and target: (N, *)."""
    labels = target.flatten().to(logits.dtype)
    errors, order = torch.sort(1 - logits.flatten() * (2 * labels - 1), descending=True)
    return torch.dot(F.relu(errors), _gradient(labels[order]))


def sorted_at_once() -> Function:
    """Lovász-Softmax with one sort of all classes; ignored pixels come last."""

    def lovasz_softmax(logits: Tensor, target: Tensor) -> Tensor:
        classes = logits.shape[1]
        probs = logits.softmax(1).movedim(1, 0).reshape(classes, -1)
        labels = target.flatten()
        valid = labels != 255
        positive = (labels == torch.arange(classes, device=labels.device)[:, None]) & valid
        positive = positive.to(probs.dtype)
        errors = (positive - probs).abs().masked_fill(~valid, 0)
        keys, order = errors.masked_fill(~valid, -1).sort(-1, descending=True)
        losses = (keys.clamp(min=0) * _gradient(positive.gather(-1, order))).sum(-1)
        present = positive.sum(-1) > 0
        return (losses * present).sum() / present.sum()

    return lovasz_softmax
