"""L1Loss, SmoothL1Loss, BalancedL1Loss, MSELoss and their functions.

Source: mmdet 3.3.0, models/losses/{smooth_l1,balanced_l1,mse}_loss.py.

Element-wise on tensors of any shape, boxes or offsets. Formulas:
`fastloss.functional.regression_loss`.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.reduction import (
    NativeLoss,
    choose_reduction,
    reduce_and_scale,
    same_shape,
    weighted_loss,
)
from fastloss.compat.mmdet.registry import LOSSES
from fastloss.compat.mmdet.shortcut import forward_with_shortcut


@weighted_loss
def smooth_l1_loss(pred: Tensor, target: Tensor, beta: float = 1.0) -> Tensor | NativeLoss:
    """0.5 d^2 / beta where d = |pred - target| < beta, else d - 0.5 beta; the shape of pred.

    Called as
    ``smooth_l1_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    AssertionError: beta <= 0, different shapes. An empty target gives ``pred.sum() * 0``.
    """
    if not beta > 0:
        raise AssertionError(f"beta must be > 0, got {beta}")
    if target.numel() == 0:
        return pred.sum() * 0
    return _native(*same_shape(pred, target), kind="smooth_l1", beta=beta)


@weighted_loss
def l1_loss(pred: Tensor, target: Tensor) -> Tensor | NativeLoss:
    """abs(pred - target); the shape of pred.

    Called as ``l1_loss(pred, target, weight=None, reduction="mean", avg_factor=None)``.
    AssertionError: different shapes. An empty target gives ``pred.sum() * 0``.
    """
    if target.numel() == 0:
        return pred.sum() * 0
    return _native(*same_shape(pred, target), kind="l1")


@weighted_loss
def balanced_l1_loss(
    pred: Tensor,
    target: Tensor,
    beta: float = 1.0,
    alpha: float = 0.5,
    gamma: float = 1.5,
    reduction: str = "mean",
) -> Tensor | NativeLoss:
    """Balanced L1: logarithmic in d = |pred - target| < beta, linear beyond; the shape of pred.

    Called as
    ``balanced_l1_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``;
    `reduction` of the signature above never gets here, as in mmdet. AssertionError: beta <= 0,
    different shapes. ValueError (mmdet: NaN): alpha or gamma <= 0, gamma > 80 alpha. An empty
    target gives ``pred.sum() * 0``.
    """
    if not beta > 0:
        raise AssertionError(f"beta must be > 0, got {beta}")
    if target.numel() == 0:
        return pred.sum() * 0
    pred, target = same_shape(pred, target)
    return _native(pred, target, kind="balanced_l1", beta=beta, alpha=alpha, gamma=gamma)


@weighted_loss
def mse_loss(pred: Tensor, target: Tensor) -> NativeLoss:
    """(pred - target)^2; the shape of pred.

    Called as ``mse_loss(pred, target, weight=None, reduction="mean", avg_factor=None)``.
    Different shapes broadcast with a warning, as in torch.
    """
    if pred.shape != target.shape:
        warnings.warn(
            f"pred {tuple(pred.shape)} and target {tuple(target.shape)} are broadcast",
            stacklevel=3,
        )
        pred, target = torch.broadcast_tensors(pred, target)
    return _native(pred, target, kind="mse")


@LOSSES.register_module()
class SmoothL1Loss(nn.Module):
    """Smooth L1 loss, times `loss_weight`: 0.5 d^2 / beta near 0, |d| - beta / 2 beyond beta.

    Args:
        beta: where the parabola meets the line, in the unit of pred; AssertionError at the call
            unless > 0.
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` with pred
    and target of one shape and a weight that broadcasts to it; for (n, 4) a weight (n,) weights
    the rows, unless n = 4: then, as in mmdet, it broadcasts and weights the columns. (mmdet
    refuses weights (n,) for other n if any of them is positive.) No elements: 0, also for "mean".
    Where no weight is positive the result is ``(pred * weight).sum()``, without loss_weight and
    avg_factor; for "none" it is that product per element (mmdet: a scalar, after reading the
    weights on the host). AssertionError: different shapes, a wrong `reduction_override`.
    ValueError: avg_factor with "sum".
    """

    def __init__(
        self, beta: float = 1.0, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.beta = beta
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """pred, target (*); weight broadcasts to (*) -> scalar, or (*) for reduction "none"."""
        return forward_with_shortcut(
            self,
            smooth_l1_loss,
            pred,
            target,
            weight,
            avg_factor,
            reduction_override,
            beta=self.beta,
            **kwargs,
        )


@LOSSES.register_module()
class L1Loss(nn.Module):
    """L1 loss: abs(pred - target), times `loss_weight`.

    Args:
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.

    Call, weights, empty input, shortcut and errors: as `SmoothL1Loss`.

    >>> L1Loss()(torch.tensor([0., 2., 3.]), torch.ones(3), weight=torch.tensor([1., 0., 1.]))
    tensor(1.)
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred, target (*); weight broadcasts to (*) -> scalar, or (*) for reduction "none"."""
        return forward_with_shortcut(
            self, l1_loss, pred, target, weight, avg_factor, reduction_override
        )


@LOSSES.register_module()
class BalancedL1Loss(nn.Module):
    """Balanced L1 loss, times `loss_weight`: alpha / b (b d + 1) ln(b d / beta + 1) - alpha d where
    d = |pred - target| < beta, gamma d + gamma / b - alpha beta beyond; b = e^(gamma / alpha) - 1.

    Source: https://arxiv.org/abs/1904.02701.

    Args:
        alpha: the smaller, the larger the gradient of small differences.
        gamma: the gradient of differences beyond beta.
        beta: where the line begins, in the unit of pred; AssertionError at the call unless > 0.
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` with pred
    and target of one shape and a weight that broadcasts to it. No shortcut for weights without a
    positive one. No elements: 0, also for "mean". AssertionError: different shapes, a wrong
    `reduction_override`. ValueError: avg_factor with "sum", alpha or gamma <= 0 (mmdet: NaN).
    """

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float = 1.5,
        beta: float = 1.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.beta = beta
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """pred, target (*); weight broadcasts to (*) -> scalar, or (*) for reduction "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        loss = balanced_l1_loss.__wrapped__(
            pred,
            target,
            alpha=self.alpha,
            gamma=self.gamma,
            beta=self.beta,
            reduction=reduction,
            **kwargs,
        )
        return reduce_and_scale(loss, weight, reduction, avg_factor, self.loss_weight)


@LOSSES.register_module()
class MSELoss(nn.Module):
    """Squared error (pred - target)^2, times `loss_weight`.

    Args:
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` with pred
    and target of one shape (others broadcast, with a warning) and a weight that broadcasts to it.
    No elements: the mean is NaN, 0 with an avg_factor. AssertionError: a wrong
    `reduction_override`. ValueError: avg_factor with "sum".
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred, target (*); weight broadcasts to (*) -> scalar, or (*) for reduction "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        loss = mse_loss.__wrapped__(pred, target)
        return reduce_and_scale(loss, weight, reduction, avg_factor, self.loss_weight)


def _native(pred: Tensor, target: Tensor, **options: Any) -> NativeLoss:
    if pred.dtype != target.dtype:
        dtype = torch.promote_types(pred.dtype, target.dtype)
        pred, target = pred.to(dtype), target.to(dtype)
    return NativeLoss(functional.regression_loss, pred, target, pred.shape, options)
