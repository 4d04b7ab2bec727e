"""EIoULoss, SIoULoss, BoundedIoULoss and their functions (mmdet 3.3.0, losses/iou_loss.py).

All take aligned pairs of boxes (x1, y1, x2, y2), in any unit. Formulas:
`fastloss.functional.box_loss`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.boxes import _BoxLoss, _broadcast, _native
from fastloss.compat.mmdet.reduction import NativeLoss, weighted_loss
from fastloss.compat.mmdet.registry import LOSSES
from fastloss.compat.mmdet.shortcut import forward_with_shortcut


@weighted_loss
def eiou_loss(
    pred: Tensor, target: Tensor, smooth_point: float = 0.1, eps: float = 1e-7
) -> NativeLoss:
    """Per pair smooth L1 of 1 - extended IoU, quadratic below smooth_point; eps added to the union.

    (n, 4), (n, 4) -> (n,). Called as
    ``eiou_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    ValueError (mmdet: NaN or no smoothing): smooth_point <= 0.
    """
    pred, target = _broadcast(pred, target)
    return _native(pred, target, kind="eiou", smooth_point=smooth_point, eps=eps)


@weighted_loss
def siou_loss(
    pred: Tensor, target: Tensor, eps: float = 1e-7, neg_gamma: bool = False
) -> NativeLoss:
    """Per pair 1 - clamp(SIoU, -1, 1).

    (n, 4), (n, 4) -> (n,). Called as
    ``siou_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    """
    pred, target = _broadcast(pred, target)
    return _native(pred, target, kind="siou", eps=eps, neg_gamma=bool(neg_gamma))


@weighted_loss
def bounded_iou_loss(
    pred: Tensor, target: Tensor, beta: float = 0.2, eps: float = 1e-3
) -> NativeLoss:
    """Per coordinate (centre x, centre y, width, height) smooth L1 of 1 - its score.

    (n, 4), (n, 4) -> (n, 4); no gradient to the target. Called as
    ``bounded_iou_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    ValueError (mmdet: no smoothing): beta <= 0.
    """
    pred, target = _broadcast(pred, target)
    options = {"kind": "bounded_iou", "beta": beta, "eps": eps}
    return NativeLoss(functional.box_loss, pred, target, pred.shape, options)


@LOSSES.register_module()
class EIoULoss(_BoxLoss):
    """Extended-IoU loss, times `loss_weight`: smooth L1 of 1 - IoU, with the intersection continued
    to negative values for disjoint boxes.

    Source: https://ieeexplore.ieee.org/abstract/document/9429909.

    Args:
        eps: added to the union.
        smooth_point: where the parabola meets the line; ValueError at the call unless > 0.
        reduction, loss_weight: as in `GIoULoss`, whose call, shortcut and errors it shares.
    """

    loss = staticmethod(eiou_loss)

    def __init__(
        self,
        eps: float = 1e-6,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        smooth_point: float = 0.1,
    ) -> None:
        super().__init__(eps, reduction, loss_weight)
        self.smooth_point = smooth_point

    def _weighted(self, *args: Any, **kwargs: Any) -> Tensor:
        return super()._weighted(*args, smooth_point=self.smooth_point, **kwargs)


@LOSSES.register_module()
class SIoULoss(_BoxLoss):
    """SIoU loss, 1 - (IoU - (distance and angle cost + shape cost) / 2), times `loss_weight`.

    Source: https://arxiv.org/abs/2205.12740.

    Args:
        eps: added to the union, the heights and the offsets of the centres; floor of the hull.
        neg_gamma: True follows the paper; with False the loss falls with the distance.
        reduction, loss_weight: as in `GIoULoss`, whose call, shortcut and errors it shares.

    mmdet returns NaN where neither box has a width (0/0 in the shape cost) and NaN gradients for
    inverted boxes whose exponentials overflow; the cost is 0 and the gradients are finite here.
    """

    loss = staticmethod(siou_loss)

    def __init__(
        self,
        eps: float = 1e-6,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        neg_gamma: bool = False,
    ) -> None:
        super().__init__(eps, reduction, loss_weight)
        self.neg_gamma = neg_gamma

    def _weighted(self, *args: Any, **kwargs: Any) -> Tensor:
        return super()._weighted(*args, neg_gamma=self.neg_gamma, **kwargs)


@LOSSES.register_module()
class BoundedIoULoss(nn.Module):
    """Bounded IoU loss, a value per coordinate (centre x, centre y, width, height), times
    `loss_weight`: smooth L1 of 1 - its score, which is 1 where it is that of the target.

    Source: https://arxiv.org/abs/1711.00164.

    Args:
        beta: where the parabola meets the line; ValueError at the call unless > 0.
        eps: added to the denominators.
        reduction: "none", "mean" (over 4 n values) or "sum".
        loss_weight: factor of the result.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` with pred,
    target (n, 4) xyxy and weight (n, 4); the target gets no gradient. A weight (n,) weights the
    rows, unless n = 4: then, as in mmdet, it broadcasts and weights the columns. (mmdet refuses
    weights (n,) for other n if any of them is positive.) No pairs: the mean is NaN (0 with a
    weight or an avg_factor). The shortcut where no weight is positive is that of `SmoothL1Loss`.
    AssertionError: a wrong `reduction_override`. ValueError: avg_factor with "sum".
    """

    def __init__(
        self,
        beta: float = 0.2,
        eps: float = 1e-3,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.eps = eps
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
        """pred, target (n, 4) xyxy; weight (n, 4) -> scalar, or (n, 4) for reduction "none"."""
        return forward_with_shortcut(
            self,
            bounded_iou_loss,
            pred,
            target,
            weight,
            avg_factor,
            reduction_override,
            beta=self.beta,
            eps=self.eps,
            **kwargs,
        )
