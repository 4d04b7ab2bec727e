"""l1_loss, l2_loss and smooth_l1_loss (vis4d 1.0.0, op/loss/common.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastloss import functional
from fastloss.compat.vis4d._native import floats, reduced
from fastloss.compat.vis4d.reducers import LossReducer, identity_loss


def smooth_l1_loss(
    pred: Tensor, target: Tensor, reducer: LossReducer = identity_loss, beta: float = 1.0
) -> Tensor:
    """d^2 / (2 beta) where d = |pred - target| < beta, d - beta / 2 elsewhere, then the reducer.

    (The formula in vis4d's docstring is another one, which its code does not compute.)

    Args:
        pred: any shape.
        target: the shape of pred, not empty.
        reducer: callable Tensor -> Tensor; the default keeps the loss per element.
        beta: where the loss turns from square to linear, > 0.

    Differentiable in pred and target. AssertionError: beta <= 0, different shapes, no element.
    """
    if not beta > 0:
        raise AssertionError(f"beta must be > 0, got {beta}")
    return _distance(pred, target, reducer, kind="smooth_l1", beta=beta)


def l1_loss(pred: Tensor, target: Tensor, reducer: LossReducer = identity_loss) -> Tensor:
    """|pred - target|, then the reducer.

    Both of one shape, not empty, else AssertionError. Differentiable in pred and target.
    """
    return _distance(pred, target, reducer, kind="l1")


def l2_loss(pred: Tensor, target: Tensor, reducer: LossReducer = identity_loss) -> Tensor:
    """(pred - target)^2, then the reducer.

    Both of one shape, not empty, else AssertionError. Differentiable in pred and target.
    """
    return _distance(pred, target, reducer, kind="mse")


def _distance(pred: Tensor, target: Tensor, reducer: LossReducer, **options: Any) -> Tensor:
    if pred.shape != target.shape or target.numel() == 0:
        raise AssertionError(
            f"pred and target must have one shape with at least one element, "
            f"got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    pred, target = floats(pred, target)
    return reduced(reducer, functional.regression_loss, pred, target, pred.shape, **options)
