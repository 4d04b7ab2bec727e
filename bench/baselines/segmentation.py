"""Losses of label maps, alone and in weighted sums, all classes at once.

Focal loss: Lin et al. 2017; Dice loss: Milletari et al. 2016, with the intersection as
segmentation_models_pytorch 0.6 computes it: (sum p + sum t - sum |p - t|) / 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = -100
) -> Tensor:
    """logits: (N, C, *); target: class ids (N, *)."""
    return F.cross_entropy(
        logits, target, ignore_index=ignore_index, label_smoothing=label_smoothing
    )


def _softmax_focal(logits: Tensor, target: Tensor, valid: Tensor, *, gamma: float = 2.0) -> Tensor:
    nll = F.cross_entropy(logits, target, reduction="none")
    return ((1 - (-nll).exp()).pow(gamma) * nll * valid).sum() / valid.sum()


def _sigmoid_focal(logits: Tensor, target: Tensor, valid: Tensor, *, gamma: float = 2.0) -> Tensor:
    one_hot = _one_hot(logits, target)
    bce = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    loss = (1 - (-bce).exp()).pow(gamma) * bce * valid[:, None]
    return loss.sum() / (valid.sum() * logits.shape[1])


def _dice(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    if target.dim() < logits.dim():
        prob, one_hot = logits.softmax(dim=1), _one_hot(logits, target)
    else:
        prob, one_hot = logits.sigmoid(), target
    prob, one_hot = prob * valid[:, None], one_hot * valid[:, None]
    dims = (0, *range(2, logits.dim()))
    total = prob.sum(dims) + one_hot.sum(dims)  # (C,)
    overlap = (total - (prob - one_hot).abs().sum(dims)) / 2
    loss = 1 - 2 * overlap / total.clamp(min=1e-7)
    return (loss * (one_hot.sum(dims) > 0)).mean()


def _soft_bce(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * valid[:, None]
    return loss.sum() / (valid.sum() * logits.shape[1])


def _cross_entropy(
    logits: Tensor, target: Tensor, valid: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    loss = F.cross_entropy(logits, target, label_smoothing=label_smoothing, reduction="none")
    return (loss * valid).sum() / valid.sum()


def _one_hot(logits: Tensor, target: Tensor) -> Tensor:
    """(N, C, *), of the dtype of the logits."""
    return F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)


_TERMS: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": _cross_entropy,
    "softmax_focal": _softmax_focal,
    "sigmoid_focal": _sigmoid_focal,
    "dice": _dice,
    "soft_bce": _soft_bce,
}


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    terms: Mapping[str, float | Mapping[str, Any]],
    mode: str = "multiclass",
    ignore_index: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """logits: (N, C, *); target: class ids (N, *) in mode "multiclass", otherwise (N, C, *). Ids
    that are ignored stand for class 0 where a value is needed, with weight 0."""
    if mode == "multiclass":
        ignored = target == ignore_index
        valid, target = (~ignored).to(logits.dtype), target.masked_fill(ignored, 0)
    else:
        valid = logits.new_ones(()).expand_as(logits[:, 0])
    values = {}
    for name, options in terms.items():
        options = dict(options) if isinstance(options, Mapping) else {"weight": options}
        weight = options.pop("weight", 1.0)
        values[name] = weight * _TERMS[name](logits, target, valid, **options)
    return sum(values.values()), values
