"""How the mirrored losses call the native ones: with the reducer inside, and vis4d's errors.

The arguments that vis4d asserts are checked where they are named, with AssertionError. What else
does not fit (shape, device, dtype) is a RuntimeError, as from the torch operators of vis4d; this
module is where that is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastloss.compat.vis4d.reducers import (
    LossReducer,
    SumWeightedLoss,
    identity_loss,
    mean_loss,
    sum_loss,
)


def native(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a native loss; its ValueError and TypeError become RuntimeError."""
    try:
        return function(*args, **options)
    except (TypeError, ValueError) as error:
        raise RuntimeError(str(error)) from error


def reduction_of(reducer: LossReducer) -> str | None:
    """The native name of a reducer without arguments; None for any other callable."""
    if reducer is identity_loss:
        return "none"
    if reducer is mean_loss:
        return "mean"
    return "sum" if reducer is sum_loss else None


def reduced(
    reducer: LossReducer,
    function: Callable[..., Tensor],
    pred: Tensor,
    target: Tensor,
    shape: torch.Size,
    **options: Any,
) -> Tensor:
    """`reducer` of the native loss ``function(pred, target, **options)``, which has `shape` before
    it is reduced: in the same pass if the reducer is known."""
    reduction = reduction_of(reducer)
    if 0 in shape:
        reduction = None  # the mean of nothing is NaN in vis4d and 0 natively
    elif type(reducer) is SumWeightedLoss and _fits(reducer, pred, shape):
        options.update(weight=reducer.weight, avg_factor=reducer.avg_factor)
        reduction = "mean"
    if reduction is not None:
        return native(function, pred, target, reduction=reduction, **options)
    return reducer(native(function, pred, target, reduction="none", **options))


def _fits(reducer: SumWeightedLoss, pred: Tensor, shape: torch.Size) -> bool:
    """Whether the native call can weight as this reducer does.

    Not if the weight is a number or enlarges the loss, or if avg_factor has dimensions or a
    gradient, is on another device, or is not above 0.
    """
    weight, avg_factor = reducer.weight, reducer.avg_factor
    if isinstance(avg_factor, Tensor):
        plain = avg_factor.dim() == 0 and not avg_factor.requires_grad
        if not plain or avg_factor.device != pred.device:
            return False
    elif not (isinstance(avg_factor, (int, float)) and 0 < avg_factor < math.inf):
        return False
    if not isinstance(weight, Tensor) or weight.device != pred.device:
        return False
    pairs = zip(reversed(weight.shape), reversed(shape), strict=False)
    return weight.dim() <= len(shape) and all(given in (1, wanted) for given, wanted in pairs)


def floats(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of their difference; integers alone in torch's default dtype."""
    if first.dtype == second.dtype and first.is_floating_point():
        return first, second
    dtype = torch.promote_types(first.dtype, second.dtype)
    if not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    return first.to(dtype), second.to(dtype)
