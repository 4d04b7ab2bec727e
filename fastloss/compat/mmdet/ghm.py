"""GHMC and GHMR (mmdet 3.3.0, models/losses/ghm_loss.py).

One read of the predictions gives the counts and the sums of losses of all bins; the rest is a few
operations on these on the device, which mmdet reads two numbers a bin from. Formulas:
`fastloss.functional.ghm_classification_loss` and `ghm_regression_loss`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastloss.compat.mmdet.reduction import AVG_FACTOR_EPS, choose_reduction
from fastloss.compat.mmdet.registry import LOSSES
from fastloss.ops.gradient_harmonized import (
    bin_weights,
    checked,
    harmonized_table,
    weighted_elements,
)
from fastloss.reference._reduce import compute_dtype


class _Harmonized(nn.Module):
    """Bins, momentum and reduction, which both losses share."""

    kind: str
    mu = 0.0
    edges: Tensor
    acc_sum: Tensor

    def __init__(
        self, bins: int, momentum: float, loss_weight: float, reduction: str, last_edge: float
    ) -> None:
        super().__init__()
        self.bins = bins
        self.momentum = momentum
        self.register_buffer("edges", torch.arange(bins + 1).float() / bins)
        self.edges[-1] = last_edge
        if momentum > 0:
            self.register_buffer("acc_sum", torch.zeros(bins))
        self.loss_weight = loss_weight
        self.reduction = reduction

    def _loss(
        self, pred: Tensor, target: Tensor, weight: Tensor, total: Tensor | None, reduction: str
    ) -> Tensor:
        """`total`: what the harmonized weights add up to; None: the number of valid elements."""
        if reduction not in ("none", "mean"):
            raise ValueError(f'avg_factor can not be used with reduction="sum", got {reduction!r}')
        pred, target, weight = checked(pred, target, weight, self.kind)
        edges, kind, mu = self.edges, self.kind, self.mu
        read = (pred, target) if reduction == "mean" else (pred.detach(), target.detach())
        counts, sums = harmonized_table(*read, weight, edges, kind, mu)
        total = (counts.sum() if total is None else total.double()).clamp(min=1)
        weights = bin_weights(counts, self._of_bins(counts[:-1], total))
        if self.loss_weight != 1:
            weights = weights * self.loss_weight
        if reduction == "none":
            return weighted_elements(pred, target, weight, edges, weights, kind, mu)
        return (weights / (total + AVG_FACTOR_EPS)).dot(sums).to(compute_dtype(pred))

    def _of_bins(self, counts: Tensor, total: Tensor) -> Tensor:
        """The total over the count of each bin, or over its running mean, in the buffer's dtype."""
        if self.momentum <= 0:
            return total / counts
        acc = self.acc_sum
        running = self.momentum * acc + ((1 - self.momentum) * counts).to(acc.dtype)
        acc.copy_(torch.where(counts > 0, running, acc))
        return acc.reciprocal() * total.to(acc.dtype)  # as torch divides a number by a tensor


@LOSSES.register_module()
class GHMC(_Harmonized):
    """Binary cross entropy with harmonized gradients (https://arxiv.org/abs/1811.05181).

    Args:
        bins: number of equal intervals of the gradient length |sigmoid(pred) - target|.
        momentum: of the running mean of the counts, buffer `acc_sum` (bins); 0: none is kept.
        use_sigmoid: must be true; NotImplementedError otherwise.
        loss_weight: factor of the result.
        reduction: "none" or "mean", over the elements with label_weight > 0. "sum" is a ValueError
            at the call.

    Call: ``loss(pred, target, label_weight, reduction_override=None, **kwargs)``; kwargs are
    ignored. pred (N, C) logits, target (N, C) in [0, 1] and label_weight (N, C), of which only the
    sign counts; or class ids (N,) with label_weight (N,), where an id outside of 0..C-1 is
    background. Nothing valid: 0. Elements that are not valid have no influence even if they are NaN
    (mmdet: NaN). The buffer `edges` (bins + 1) is mmdet's. AssertionError: a wrong
    `reduction_override`.
    """

    kind = "classification"

    def __init__(
        self,
        bins: int = 10,
        momentum: float = 0,
        use_sigmoid: bool = True,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(bins, momentum, loss_weight, reduction, last_edge=1 + 1e-6)
        self.use_sigmoid = use_sigmoid
        if not use_sigmoid:
            raise NotImplementedError(f"use_sigmoid must be true, got {use_sigmoid!r}")

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor,
        reduction_override: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """pred (N, C), target and label_weight (N, C) or (N,) -> scalar, or (N, C) for "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        label_weight, total = label_weight.float(), None
        if pred.dim() != target.dim():
            label_weight = label_weight.view(-1, 1)
        else:
            target = target.float()
            if label_weight.shape != pred.shape:  # mmdet counts what it has not broadcast
                total = (label_weight > 0).sum()
        return self._loss(pred, target, label_weight, total, reduction)


@LOSSES.register_module()
class GHMR(_Harmonized):
    """Authentic smooth L1 with harmonized gradients (https://arxiv.org/abs/1811.05181).

    Args:
        mu: where the loss turns from a parabola to a line, in the unit of pred; ValueError at the
            call unless > 0.
        bins: number of equal intervals of the gradient length |d| / sqrt(d^2 + mu^2), where
            d = pred - target.
        momentum: of the running mean of the counts, buffer `acc_sum` (bins); 0: none is kept.
        loss_weight: factor of the result.
        reduction: "none" or "mean". "sum" is a ValueError at the call.

    Call: ``loss(pred, target, label_weight, avg_factor=None, reduction_override=None)`` with pred,
    target and label_weight (N, 4 * classes). An element is valid where label_weight > 0; bins are
    weighted in proportion to the sum of label_weight, which the mean is divided by again.
    avg_factor is ignored. Nothing valid: 0. NaN, buffers, AssertionError: as GHMC.
    """

    kind = "regression"

    def __init__(
        self,
        mu: float = 0.02,
        bins: int = 10,
        momentum: float = 0,
        loss_weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(bins, momentum, loss_weight, reduction, last_edge=1e3)
        self.mu = mu

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        label_weight: Tensor,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred, target, label_weight (N, 4) -> scalar, or (N, 4) for "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        if not self.mu > 0:
            raise ValueError(f"mu must be > 0, got {self.mu}")
        total = label_weight.detach().float().sum()
        return self._loss(*torch.broadcast_tensors(pred, target), label_weight, total, reduction)
