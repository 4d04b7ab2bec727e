"""The functions of smp 0.6.0 losses/_functional.py.

Reduced focal losses are native; maps of values, and scores of given tensors, are plain torch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss import functional
from fastloss.compat.smp.scores import soft_dice_score, soft_jaccard_score, soft_tversky_score

__all__ = [
    "focal_loss_with_logits",
    "label_smoothed_nll_loss",
    "soft_dice_score",
    "soft_jaccard_score",
    "soft_tversky_score",
    "softmax_focal_loss_with_logits",
    "to_tensor",
    "wing_loss",
]

# The floor of the normaliser in the native focal terms.
NATIVE_EPS = 1e-6


def to_tensor(x: Any, dtype: torch.dtype | None = None) -> Tensor | None:
    """A tensor of the tensor, array, list or tuple x, as `dtype` if given; None for anything else.

    Lists of floats become float64, as in NumPy.
    """
    if isinstance(x, (list, tuple)):
        integers = not torch.tensor(x).is_floating_point()
        x = torch.tensor(x, dtype=None if integers else torch.float64)
    elif hasattr(x, "__array_interface__"):
        x = torch.as_tensor(x)
    if not isinstance(x, Tensor):
        return None
    return x if dtype is None else x.to(dtype)


def focal_loss_with_logits(
    output: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    reduction: str = "mean",
    normalized: bool = False,
    reduced_threshold: float | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Binary focal loss of logits (*) and a target (*) in [0, 1].

    (1 - q)^gamma b with b the binary cross entropy and q = exp(-b), times alpha for target 1 and
    1 - alpha for target 0 (alpha None: 1). reduced_threshold h: the factor is ((1 - q) / h)^gamma,
    and 1 where q < h. normalized: divided by max(sum of the factors, eps).
    reduction: "mean", "sum", "batchwise_mean" (a sum over the first dimension) or any other string
    for none. ValueError: another shape of the target.
    """
    target = target.to(dtype=output.dtype, device=output.device)
    if target.shape != output.shape:
        raise ValueError(
            f"target must have the shape of output, {tuple(output.shape)}, "
            f"got {tuple(target.shape)}"
        )
    if reduction in ("mean", "sum") and eps == NATIVE_EPS:
        term = {
            "alpha": alpha,
            "gamma": gamma,
            "reduced_threshold": reduced_threshold,
            "normalized": normalized,
            "reduction": reduction,
            "empty": math.nan,
        }
        pair = (output.reshape(1, 1, output.numel()), target.reshape(1, 1, output.numel()))
        return functional.segmentation_loss(*pair, terms={"sigmoid_focal": term}, mode="binary")[0]
    loss = F.binary_cross_entropy_with_logits(output, target, reduction="none")
    balance = 1 if alpha is None else alpha * target + (1 - alpha) * (1 - target)
    return _focal(loss, balance, gamma, reduction, normalized, reduced_threshold, eps)


def softmax_focal_loss_with_logits(
    output: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    reduction: str = "mean",
    normalized: bool = False,
    reduced_threshold: float | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Focal loss of the softmax of logits (N, C, *) and class ids (N, *).

    As `focal_loss_with_logits` with the cross entropy for b. Pixels of label -100 have loss 0, but
    the mean divides by all. IndexError: another label out of range.
    """
    if reduction in ("mean", "sum") and eps == NATIVE_EPS:
        term = {
            "gamma": gamma,
            "reduced_threshold": reduced_threshold,
            "normalized": normalized,
            "reduction": reduction,
            "avg_factor": target.numel() if reduction == "mean" else None,
        }
        terms = {"softmax_focal": term}
        return functional.segmentation_loss(output, target, terms=terms, ignore_index=-100)[0]
    loss = F.nll_loss(output.log_softmax(1), target.long(), reduction="none")
    return _focal(loss, 1, gamma, reduction, normalized, reduced_threshold, eps)


def _focal(
    loss: Tensor,
    balance: Tensor | int,
    gamma: float,
    reduction: str,
    normalized: bool,
    reduced_threshold: float | None,
    eps: float,
) -> Tensor:
    """The cross entropies `loss`, modulated and reduced."""
    q = torch.exp(-loss)
    if reduced_threshold is None:
        factor = (1 - q).pow(gamma)
    else:
        factor = torch.where(q < reduced_threshold, 1, ((1 - q) / reduced_threshold).pow(gamma))
    loss = factor * loss * balance
    if normalized:
        loss = loss / factor.sum().clamp(min=eps)
    if reduction == "batchwise_mean":
        return loss.sum(0)
    return _reduced(loss, reduction)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    return loss.sum() if reduction == "sum" else loss


def wing_loss(
    output: Tensor,
    target: Tensor,
    width: float = 5,
    curvature: float = 0.5,
    reduction: str = "mean",
) -> Tensor:
    """Wing loss (https://arxiv.org/abs/1711.06753) of d = |target - output|:
    width ln(1 + d / curvature) where d < width, d - constant elsewhere.

    reduction: "mean", "sum" or any other string for none.
    """
    d = (target - output).abs()
    constant = width - width * math.log(1 + width / curvature)
    return _reduced(
        torch.where(d < width, width * torch.log1p(d / curvature), d - constant), reduction
    )


def label_smoothed_nll_loss(
    lprobs: Tensor,
    target: Tensor,
    epsilon: float,
    ignore_index: int | None = None,
    reduction: str = "mean",
    dim: int = -1,
) -> Tensor:
    """(1 - epsilon) nll - epsilon / C sum(lprobs) of log-probabilities, with the classes in `dim`.

    target: class ids in the shape of lprobs without `dim`, or with 1 there. Ignored pixels are 0;
    the mean divides by all. reduction: "mean", "sum" or any other string for none, whose result has
    a dimension of 1 in place of `dim` if ignore_index is given, and none otherwise.
    RuntimeError: a label out of range.
    """
    if target.dim() == lprobs.dim() - 1:
        target = target.unsqueeze(dim)
    target = target.long()
    ignored = torch.zeros_like(target, dtype=torch.bool)
    if ignore_index is not None:
        ignored = target == ignore_index
    nll = -lprobs.gather(dim, target.masked_fill(ignored, 0)).masked_fill(ignored, 0)
    smooth = -lprobs.sum(dim, keepdim=True).masked_fill(ignored, 0)
    if ignore_index is None:
        nll, smooth = nll.squeeze(dim), smooth.squeeze(dim)
    nll, smooth = _reduced(nll, reduction), _reduced(smooth, reduction)
    return (1 - epsilon) * nll + epsilon / lprobs.shape[dim] * smooth
