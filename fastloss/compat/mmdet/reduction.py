"""How every mirrored mmdet loss is weighted and reduced (mmdet 3.3.0, models/losses/utils.py).

A mirrored loss does not compute here. It names a native call (`NativeLoss`), and the reduction
makes that call with the weight and the divisor in it, so that one kernel reads the inputs and
writes the scalar.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# mmdet adds this to every avg_factor, so that 0.0 (an image without objects) divides nothing by 0.
AVG_FACTOR_EPS = torch.finfo(torch.float32).eps


class NativeLoss(NamedTuple):
    """The loss per element, as a call of `fastloss.functional` that is still to be made."""

    function: Callable[..., Tensor]
    pred: Tensor
    target: Tensor
    shape: torch.Size  # of the loss per element
    options: dict[str, Any]

    def call(self, **reduction: Any) -> Tensor:
        return self.function(self.pred, self.target, **self.options, **reduction)


def reduce_loss(loss: Tensor, reduction: str) -> Tensor:
    """The loss ("none"), its mean ("mean", NaN of nothing) or its sum ("sum"); else ValueError."""
    if reduction == "none":
        return loss
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    raise ValueError(f'reduction must be "none", "mean" or "sum", got {reduction!r}')


def weight_reduce_loss(
    loss: Tensor | NativeLoss,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Multiply a loss per element by `weight` (any shape that broadcasts) and reduce it.

    "mean" divides by the number of elements of the weighted loss, or by
    ``avg_factor + finfo(float32).eps`` if `avg_factor` (a number or a 0-dim tensor) is given.
    `avg_factor` does not change "none"; with "sum" it is a ValueError.
    """
    return reduce_and_scale(loss, weight, reduction, avg_factor, 1)


def weighted_loss(loss_func: Callable[..., Tensor | NativeLoss]) -> Callable[..., Tensor]:
    """Decorate a function of (pred, target, ...) returning the loss per element: weight and reduce.

    The result is called as
    ``f(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``; the keywords go
    to `loss_func`.

    >>> @weighted_loss
    ... def l1_loss(pred, target):
    ...     return (pred - target).abs()
    >>> l1_loss(torch.tensor([0., 2., 3.]), torch.ones(3), torch.tensor([1., 0., 1.]), avg_factor=2)
    tensor(1.5000)
    """

    @functools.wraps(loss_func)
    def wrapper(
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
        avg_factor: float | Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        return weight_reduce_loss(loss_func(pred, target, **kwargs), weight, reduction, avg_factor)

    return wrapper


def choose_reduction(override: str | None, default: str) -> str:
    """The reduction of one call; AssertionError for an override that is not a reduction."""
    if override not in (None, "none", "mean", "sum"):
        raise AssertionError(
            f'reduction_override must be None, "none", "mean" or "sum", got {override!r}'
        )
    return override or default


def same_shape(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both, or AssertionError, as in mmdet."""
    if pred.shape != target.shape:
        raise AssertionError(
            "pred and target must have the same shape, "
            f"got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    return pred, target


def reduce_and_scale(
    loss: Tensor | NativeLoss,
    weight: Tensor | None,
    reduction: str,
    avg_factor: float | Tensor | None,
    loss_weight: float,
) -> Tensor:
    """``loss_weight * weight_reduce_loss(...)``, in one native call where that is possible."""
    if isinstance(loss, NativeLoss):
        if _fits_native(loss, weight, avg_factor):
            return _reduce_natively(loss, weight, reduction, avg_factor, loss_weight)
        loss = loss.call(reduction="none")
    if weight is not None:
        loss = loss * weight
    if avg_factor is None:
        loss = reduce_loss(loss, reduction)
    elif reduction == "mean":
        loss = loss.sum() / (avg_factor + AVG_FACTOR_EPS)
    elif reduction != "none":
        raise ValueError(f'avg_factor can not be used with reduction="sum", got {reduction!r}')
    return scale(loss, loss_weight)


def _reduce_natively(
    loss: NativeLoss,
    weight: Tensor | None,
    reduction: str,
    avg_factor: float | Tensor | None,
    loss_weight: float,
) -> Tensor:
    if avg_factor is not None and not isinstance(avg_factor, Tensor):
        avg_factor = float(avg_factor)  # from NumPy too, as loss_weight
    if reduction == "mean" and avg_factor is not None:
        avg_factor = avg_factor + AVG_FACTOR_EPS
    # As part of the divisor the factor costs no kernel. (The op refuses divisors below 0.)
    numbers = not isinstance(avg_factor, Tensor) and not isinstance(loss_weight, Tensor)
    if reduction == "mean" and numbers and loss_weight > 0:
        divisor = loss.shape.numel() if avg_factor is None else avg_factor
        avg_factor, loss_weight = divisor / float(loss_weight), 1
    value = loss.call(weight=weight, reduction=reduction, avg_factor=avg_factor)
    return scale(value, loss_weight)


def scale(loss: Tensor, loss_weight: float) -> Tensor:
    """``loss_weight * loss``; the factor 1, the default, costs no kernel."""
    if isinstance(loss_weight, Tensor) or loss_weight != 1:
        return loss_weight * loss
    return loss


def _fits_native(
    loss: NativeLoss, weight: Tensor | None, avg_factor: float | Tensor | None
) -> bool:
    """Whether the native call reduces as mmdet does; plain torch reduces what does not fit.

    The mean over nothing is NaN in mmdet and 0 natively. mmdet also broadcasts a weight that is a
    number or enlarges the loss, an avg_factor with dimensions, and CPU scalars beside CUDA tensors;
    it differentiates avg_factor, and takes negative ones.
    """
    if 0 in loss.shape:
        return False
    if isinstance(avg_factor, Tensor):
        plain = avg_factor.dim() == 0 and not avg_factor.requires_grad
        if not plain or avg_factor.device != loss.pred.device:
            return False
    elif avg_factor is not None and not 0 <= avg_factor < math.inf:
        return False
    if weight is None:
        return True
    if not isinstance(weight, Tensor) or weight.device != loss.pred.device:
        return False
    pairs = zip(reversed(weight.shape), reversed(loss.shape), strict=False)
    return weight.dim() <= len(loss.shape) and all(given in (1, wanted) for given, wanted in pairs)
