"""IoULoss, GIoULoss, DIoULoss, CIoULoss and their functions (mmdet 3.3.0, losses/iou_loss.py).

All take aligned pairs of boxes (x1, y1, x2, y2), in any unit. Formulas:
`fastloss.functional.box_loss`.
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
from fastloss.compat.mmdet.shortcut import shortcut, unless_no_weight_is_positive

MODES = ("linear", "square", "log")
# bbox_overlaps keeps its own default here, whatever the eps of the loss
# (mmdet/structures/bbox/bbox_overlaps.py).
IOU_UNION_EPS = 1e-6


@weighted_loss
def iou_loss(
    pred: Tensor, target: Tensor, linear: bool = False, mode: str = "log", eps: float = 1e-6
) -> NativeLoss:
    """Per pair 1 - IoU ("linear"), 1 - IoU^2 ("square") or -ln IoU ("log"), with IoU >= eps.

    (n, 4), (n, 4) -> (n,). Called as
    ``iou_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    `linear=True` is the deprecated spelling of mode "linear" (warns).
    AssertionError: another mode, boxes of different shapes.
    """
    mode = _check_mode(mode, linear)
    pred, target = _aligned(pred, target)
    return _native(pred, target, kind="iou", mode=mode, eps=eps, union_eps=IOU_UNION_EPS)


@weighted_loss
def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> NativeLoss:
    """Per pair 1 - GIoU, union and hull >= eps.

    (n, 4), (n, 4) -> (n,). Called as
    ``giou_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    AssertionError: boxes of different shapes.
    """
    pred, target = _aligned(pred, target)
    return _native(pred, target, kind="giou", eps=eps)


@weighted_loss
def diou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> NativeLoss:
    """Per pair 1 - DIoU, eps added to the union and to the squared diagonal of the hull.

    (n, 4), (n, 4) -> (n,). Called as
    ``diou_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    """
    pred, target = _broadcast(pred, target)
    return _native(pred, target, kind="diou", eps=eps)


@weighted_loss
def ciou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> NativeLoss:
    """Per pair 1 - clamp(CIoU, -1, 1), eps added to union, squared diagonal and heights.

    (n, 4), (n, 4) -> (n,). Called as
    ``ciou_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    """
    pred, target = _broadcast(pred, target)
    return _native(pred, target, kind="ciou", eps=eps)


class _BoxLoss(nn.Module):
    """What the classes for pairs of boxes share; `loss` is the weighted function of the class."""

    def __init__(
        self, eps: float = 1e-6, reduction: str = "mean", loss_weight: float = 1.0
    ) -> None:
        super().__init__()
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
        """pred, target (n, 4) xyxy; weight (n,) or (n, 4) -> scalar, or (n,) for "none"."""
        # mmdet checks the override after this return.
        if weight is not None and weight.numel() == 0:
            return shortcut(pred, weight)
        reduction = choose_reduction(reduction_override, self.reduction)
        loss = self._weighted(pred, target, weight, avg_factor, reduction, **kwargs)
        if weight is None:
            return loss
        return unless_no_weight_is_positive(loss, pred, weight, reduction)

    def _weighted(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        avg_factor: float | Tensor | None,
        reduction: str,
        **kwargs: Any,
    ) -> Tensor:
        if weight is not None and weight.dim() > 1:
            if weight.shape != pred.shape:
                raise AssertionError(
                    f"weight must have shape (n,) or the shape of pred, {tuple(pred.shape)}, "
                    f"got {tuple(weight.shape)}"
                )
            weight = weight.mean(-1)  # (n, 4) -> (n,)
        loss = self.loss.__wrapped__(pred, target, eps=self.eps, **kwargs)
        return reduce_and_scale(loss, weight, reduction, avg_factor, self.loss_weight)


@LOSSES.register_module()
class IoULoss(_BoxLoss):
    """IoU loss: 1 - IoU, 1 - IoU^2 or, by default, -ln IoU, times `loss_weight`.

    Args:
        linear: deprecated; True sets mode "linear" and warns.
        eps: lower bound of the IoU (the union is bounded by 1e-6, whatever `eps` is).
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.
        mode: "linear", "square" or "log"; AssertionError otherwise.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` with pred,
    target (n, 4) xyxy and weight (n,), or (n, 4), which is averaged over its last dimension. No
    pairs: the mean is NaN (0 with a weight or an avg_factor). Where no weight is positive and the
    reduction is not "none", the result is ``(pred * weight).sum()``.
    AssertionError: boxes or weights of another shape, a wrong `reduction_override`. ValueError:
    avg_factor with "sum".
    """

    def __init__(
        self,
        linear: bool = False,
        eps: float = 1e-6,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        mode: str = "log",
    ) -> None:
        super().__init__(eps, reduction, loss_weight)
        self.mode = _check_mode(mode, linear)
        self.linear = linear

    loss = staticmethod(iou_loss)

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """pred, target (n, 4) xyxy; weight (n,) or (n, 4) -> scalar, or (n,) for "none"."""
        # mmdet's IoULoss, alone, checks the override first and has no shortcut for "none".
        reduction = choose_reduction(reduction_override, self.reduction)
        if weight is None or reduction == "none":
            return self._weighted(
                pred, target, weight, avg_factor, reduction, mode=self.mode, **kwargs
            )
        return super().forward(
            pred, target, weight, avg_factor, reduction, mode=self.mode, **kwargs
        )


@LOSSES.register_module()
class GIoULoss(_BoxLoss):
    """Generalised IoU loss, 1 - GIoU, times `loss_weight`.

    Source: https://arxiv.org/abs/1902.09630.

    Args:
        eps: lower bound of union and hull.
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` with pred,
    target (n, 4) xyxy and weight (n,), or (n, 4), which is averaged over its last dimension. No
    pairs: the mean is NaN (0 with a weight or an avg_factor). Where no weight is positive the
    result is ``(pred * weight).sum()``, without loss_weight and avg_factor; for "none" it is that
    sum per pair (mmdet: a scalar, after reading the weights on the host).
    AssertionError: boxes or weights of another shape, a wrong `reduction_override`. ValueError:
    avg_factor with "sum".
    """

    loss = staticmethod(giou_loss)


@LOSSES.register_module()
class DIoULoss(_BoxLoss):
    """Distance-IoU loss, 1 - (IoU - centre distance^2 / diagonal^2), times `loss_weight`.

    Source: https://arxiv.org/abs/1911.08287.

    Args:
        eps: added to the union and to the squared diagonal of the hull.
        reduction, loss_weight: as in `GIoULoss`, whose call, shortcut and errors it shares.
    """

    loss = staticmethod(diou_loss)


@LOSSES.register_module()
class CIoULoss(_BoxLoss):
    """Complete-IoU loss: DIoU with an aspect-ratio term, times `loss_weight`.

    Source: https://arxiv.org/abs/2005.03572.

    Args:
        eps: added to the union, the squared diagonal of the hull and the heights.
        reduction, loss_weight: as in `GIoULoss`, whose call, shortcut and errors it shares.

    mmdet returns NaN for coinciding boxes whose IoU rounds to 1 (0/0 in the factor of the aspect
    term); that factor is 0 here, so the loss is 0.
    """

    loss = staticmethod(ciou_loss)


def _native(pred: Tensor, target: Tensor, **options: Any) -> NativeLoss:
    return NativeLoss(functional.box_loss, pred, target, pred.shape[:-1], options)


def _check_mode(mode: str, linear: bool) -> str:
    if mode not in MODES:
        raise AssertionError(f"mode must be one of {MODES}, got {mode!r}")
    if linear:
        warnings.warn(
            'linear=True of the IoU loss is deprecated, use mode="linear" instead', stacklevel=3
        )
        return "linear"
    return mode


def _aligned(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of boxes of equal shape; AssertionError otherwise, as in mmdet's bbox_overlaps."""
    return _boxes(*same_shape(pred, target))


def _broadcast(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of boxes; as in mmdet one box against many is accepted, RuntimeError for the rest."""
    if pred.shape != target.shape:
        pred, target = torch.broadcast_tensors(pred, target)
    return _boxes(pred, target)


def _boxes(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if pred.size(-1) != 4:
        raise AssertionError(f"pred must have shape (n, 4), got {tuple(pred.shape)}")
    if pred.dtype != target.dtype:
        dtype = torch.promote_types(pred.dtype, target.dtype)
        return pred.to(dtype), target.to(dtype)
    return pred, target
