"""mmdet's zero-weight shortcut, for which no host waits for a device.

The IoU family, L1Loss and SmoothL1Loss of mmdet 3.3.0 begin with

    if weight is not None and not torch.any(weight > 0):
        return (pred * weight).sum()

without loss_weight, avg_factor or reduction. Every weight 0 was meant; negative weights count too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastloss._library import values_may_be_read
from fastloss.compat.mmdet.reduction import choose_reduction, reduce_and_scale


def shortcut(pred: Tensor, weight: Tensor, reduction: str = "sum") -> Tensor:
    """``(pred * weight).sum()``, weight (n,) taken as (n, 1); for reduction "none" not summed."""
    if pred.dim() == 2 and weight.dim() == 1 and len(weight) == len(pred):
        weight = weight.unsqueeze(1)  # (n,) -> (n, 1)
    terms = pred * weight
    return terms if reduction == "none" else terms.sum()


def unless_no_weight_is_positive(
    loss: Tensor, pred: Tensor, weight: Tensor, reduction: str
) -> Tensor:
    """`loss`, or the shortcut where no weight is positive.

    If every weight is 0 both are 0 with zero gradients to pred, so only negative weights without a
    positive one make a difference. On the CPU the weights are looked at. A GPU's host cannot know
    without waiting, so there the choice is made on the device: two kernels for the flag, two for
    the sum, one for the choice. `torch.where` gives the side not chosen a zero gradient, which that
    side multiplies by finite numbers (the weight; the derivative of the loss): finite input leaks
    no NaN.

    For reduction "none" mmdet returns a scalar here, else a vector. A shape cannot depend on values
    without waiting for the device: the result always has the shape of the loss, and its sum is
    mmdet's scalar.
    """
    some_positive = weight.amax() > 0
    if values_may_be_read(weight) and some_positive:
        return loss
    other = shortcut(pred, weight, reduction)
    if other.dim() > loss.dim():  # products per coordinate (n, 4), a loss per box (n,)
        other = other.sum(-1)
    return torch.where(some_positive, loss, other)


def forward_with_shortcut(
    module: nn.Module,
    function: Any,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    avg_factor: float | Tensor | None,
    reduction_override: str | None,
    **kwargs: Any,
) -> Tensor:
    """The forward that L1Loss, SmoothL1Loss and BoundedIoULoss share: weights per element."""
    # mmdet checks the override after this return.
    if weight is not None and weight.numel() == 0:
        return shortcut(pred, weight)
    reduction = choose_reduction(reduction_override, module.reduction)
    weight = _per_row(weight, pred)
    loss = function.__wrapped__(pred, target, **kwargs)
    loss = reduce_and_scale(loss, weight, reduction, avg_factor, module.loss_weight)
    if weight is None:
        return loss
    return unless_no_weight_is_positive(loss, pred, weight, reduction)


def _per_row(weight: Tensor | None, pred: Tensor) -> Tensor | None:
    """(n,) -> (n, 1) for pred (n, c) with c != n.

    mmdet takes such weights only where none is positive (its shortcut), and refuses them after
    looking. Without looking they have to mean something in every case: they weight the rows.
    """
    if weight is None or pred.dim() != 2 or weight.dim() != 1:
        return weight
    rows, columns = pred.shape
    return weight.unsqueeze(1) if len(weight) == rows and rows != columns else weight
