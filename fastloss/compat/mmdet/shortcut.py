"""mmdet's zero-weight shortcut, without reading the weights on the host.

The IoU family, L1Loss and SmoothL1Loss of mmdet 3.3.0 begin with

    if weight is not None and not torch.any(weight > 0):
        return (pred * weight).sum()

without loss_weight, avg_factor or reduction. Every weight 0 was meant; negative weights count too.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shortcut(pred: Tensor, weight: Tensor, reduction: str = "sum") -> Tensor:
    """``(pred * weight).sum()``, weight (n,) taken as (n, 1); for reduction "none" not summed."""
    if pred.dim() == 2 and weight.dim() == 1 and len(weight) == len(pred):
        weight = weight.unsqueeze(1)  # (n,) -> (n, 1)
    terms = pred * weight
    return terms if reduction == "none" else terms.sum()


def unless_no_weight_is_positive(
    loss: Tensor, pred: Tensor, weight: Tensor, reduction: str
) -> Tensor:
    """`loss`, or the shortcut where no weight is positive, chosen on the device.

    If every weight is 0 both are 0 with zero gradients to pred, so only negative weights without a
    positive one make a difference. The host cannot know that without waiting for the device, so the
    choice is always made: two kernels for the flag, two for the sum, one for the choice.
    `torch.where` gives the side not chosen a zero gradient, which that side multiplies by finite
    numbers (the weight; the derivative of the loss): finite input leaks no NaN.

    For reduction "none" mmdet returns a scalar here, else a vector. A shape cannot depend on values
    without waiting for the device: the result always has the shape of the loss, and its sum is
    mmdet's scalar.
    """
    other = shortcut(pred, weight, reduction)
    if other.dim() > loss.dim():  # products per coordinate (n, 4), a loss per box (n,)
        other = other.sum(-1)
    return torch.where((weight > 0).any(), loss, other)
