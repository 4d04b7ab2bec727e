"""MultipleObjectiveLoss (uotod 0.3, loss/MultipleObjectiveLoss.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn.modules.loss import _Loss


class MultipleObjectiveLoss(_Loss):
    r"""Weighted sum of losses of the same input and target, :math:`\sum_i w_i \mathrm{loss}_i`.

    Args:
        losses: modules with reduction "none"; what they return is summed over all dimensions but
            the first.
        weights: one number >= 0 each, kept as `coefficients`.

    The class weights of a single loss are those of the sum (`weight`). Mended: upstream adds up in
    float32 whatever the input, refuses losses with an attribute `weight` beside others even if it
    is None, and leaves the class weights behind when it is moved to a device.

    Call: ``loss(input, target)`` -> (N,).

    Raises:
        AssertionError: numbers of losses and weights differ, another reduction, a negative weight,
            or input and target of different lengths.
        NotImplementedError: class weights in one of several losses.
    """

    def __init__(
        self, losses: Sequence[_Loss] | None = None, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(reduction="none")
        losses, weights = list(losses or ()), list(weights or ())
        assert len(losses) == len(weights), (
            f"losses and weights must be as many, got {len(losses)} and {len(weights)}"
        )
        for loss in losses:
            assert loss.reduction == "none", (
                f'every loss must have reduction "none", got {loss.reduction!r} in {loss}'
            )
        assert all(weight >= 0 for weight in weights), f"weights must be >= 0, got {weights}"
        for loss in losses:
            if len(losses) > 1 and getattr(loss, "weight", None) is not None:
                raise NotImplementedError(
                    f"{loss} has class weights, which is only possible for a single loss"
                )
        self.losses = losses
        self.coefficients = weights

    @property
    def weight(self) -> Tensor | None:
        """The class weights of a single loss."""
        return getattr(self.losses[0], "weight", None) if len(self.losses) == 1 else None

    def __repr__(self) -> str:
        return f"MultipleObjectiveLoss(losses={self.losses}, weights={self.coefficients})"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """(N, *), (N, *) -> (N,), of the input's dtype."""
        assert len(input) == len(target), (
            f"input and target must have the same length, got {len(input)} and {len(target)}"
        )
        total = input.new_zeros(len(input))
        for loss, weight in zip(self.losses, self.coefficients):
            value = loss(input, target)
            total = total + weight * (value.flatten(1).sum(1) if value.dim() > 1 else value)
        return total

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultipleObjectiveLoss:
        # `losses` is a list, as upstream, so that checkpoints keep their keys.
        for loss in self.losses:
            loss._apply(fn, recurse)
        return super()._apply(fn, recurse)
