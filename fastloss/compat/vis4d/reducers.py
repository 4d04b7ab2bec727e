"""What makes one value of a loss map (vis4d 1.0.0, op/loss/reducer.py).

A reducer is any callable Tensor -> Tensor. Those of this module are known to the losses, which
compute them in the pass that computes the loss; any other is handed the loss per element.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

LossReducer = Callable[[Tensor], Tensor]


def identity_loss(loss: Tensor) -> Tensor:
    """The loss per element, as it is."""
    return loss


def mean_loss(loss: Tensor) -> Tensor:
    """The mean over all elements; NaN of nothing."""
    return loss.mean()


def sum_loss(loss: Tensor) -> Tensor:
    """The sum over all elements."""
    return loss.sum()


class SumWeightedLoss:
    """sum(weight * loss) / avg_factor.

    Args:
        weight: number, or a tensor that broadcasts against the loss; differentiable.
        avg_factor: number or 0-d tensor. Nothing is added to it: 0 gives inf or NaN.
    """

    def __init__(self, weight: float | Tensor, avg_factor: float | Tensor) -> None:
        self.weight = weight
        self.avg_factor = avg_factor

    def __call__(self, loss: Tensor) -> Tensor:
        """Loss per element -> scalar."""
        return (loss * self.weight).sum() / self.avg_factor
