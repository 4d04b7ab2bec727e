"""VarifocalLoss and its function (mmdet 3.3.0, models/losses/varifocal_loss.py).

Formula: `fastloss.functional.varifocal_loss`.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.reduction import (
    NativeLoss,
    choose_reduction,
    reduce_and_scale,
    same_shape,
    weight_reduce_loss,
)
from fastloss.compat.mmdet.registry import LOSSES


def varifocal_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    alpha: float = 0.75,
    gamma: float = 2.0,
    iou_weighted: bool = True,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """t bce(x, t) where t > 0, alpha abs(p - t)^gamma bce elsewhere, for logits pred (*).

    target (*) are IoU-aware scores; weight broadcasts to (*). AssertionError: different shapes.
    """
    native = _varifocal(pred, target, alpha, gamma, iou_weighted)
    return weight_reduce_loss(native, weight, reduction, avg_factor)


@LOSSES.register_module()
class VarifocalLoss(nn.Module):
    """Varifocal loss (https://arxiv.org/abs/2008.13367), times `loss_weight`.

    Args:
        use_sigmoid: must be True; AssertionError otherwise.
        alpha: factor of the negative entries, >= 0; AssertionError otherwise.
        gamma: exponent of their modulating factor.
        iou_weighted: weight positive entries with their target, not with 1.
        reduction: "none", "mean" or "sum"; the mean divides by the number of elements.
        loss_weight: factor of the result.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` with logits
    pred (N, C) and IoU-aware scores of the same shape, positive where > 0, and a weight that
    broadcasts to it. No elements: the mean is NaN, 0 with an avg_factor. AssertionError: different
    shapes, a wrong `reduction_override`. ValueError: avg_factor with "sum".
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        alpha: float = 0.75,
        gamma: float = 2.0,
        iou_weighted: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if use_sigmoid is not True:
            raise AssertionError(f"use_sigmoid must be True, got {use_sigmoid!r}")
        if not alpha >= 0:
            raise AssertionError(f"alpha must be >= 0, got {alpha}")
        self.use_sigmoid = use_sigmoid
        self.alpha = alpha
        self.gamma = gamma
        self.iou_weighted = iou_weighted
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
        native = _varifocal(pred, target, self.alpha, self.gamma, self.iou_weighted)
        return reduce_and_scale(native, weight, reduction, avg_factor, self.loss_weight)


def _varifocal(
    pred: Tensor, target: Tensor, alpha: float, gamma: float, iou_weighted: bool
) -> NativeLoss:
    pred, target = same_shape(pred, target)
    options = {"alpha": alpha, "gamma": gamma, "iou_weighted": iou_weighted}
    return NativeLoss(functional.varifocal_loss, pred, target.to(pred.dtype), pred.shape, options)
