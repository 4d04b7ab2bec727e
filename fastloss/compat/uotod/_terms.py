"""The modules of matchers and losses: what fused kernels may take the place of, and how the others
are called."""

from __future__ import annotations

from torch import Tensor, nn

from fastloss.compat import _plain
from fastloss.compat.uotod.loss.multiple import MultipleObjectiveLoss


class NotFused(Exception):
    """Why modules are called with every pair."""


def flatten(module: nn.Module) -> list[tuple[float, nn.Module]]:
    """The terms of a loss with their coefficients: those of a MultipleObjectiveLoss and of others
    in it; any other module is one term."""
    if is_plain(module, MultipleObjectiveLoss) and all(
        isinstance(weight, (int, float)) for weight in module.coefficients
    ):
        return [
            (weight * inner, term)
            for weight, loss in zip(module.coefficients, module.losses)
            for inner, term in flatten(loss)
        ]
    return [(1.0, module)]


def is_plain(module: nn.Module, *classes: type[nn.Module]) -> bool:
    """As `_plain.is_plain`, and the module has no reduction: what it does, it does row by row."""
    return _plain.is_plain(module, *classes) and module.reduction == "none"


def refuse_overrides(module: nn.Module, base: type[nn.Module], *names: str) -> None:
    """Raise NotFused if the class of the module, a subclass of `base`, has such methods of its
    own."""
    for name in names:
        if getattr(type(module), name) is not getattr(base, name):
            raise NotFused(f"{type(module).__name__} overrides {name}")


def of_pairs(module: nn.Module, predicted: Tensor, targets: Tensor) -> Tensor:
    """(B, P, T): the module's loss of each of `predicted` (B, P, *) with each of `targets` (B, T)
    or (B, T, *), summed over the columns it may have."""
    shape = (*predicted.shape[:2], targets.shape[1])
    loss = module(
        predicted[:, :, None].expand(*shape, -1).flatten(0, 2),
        targets[:, None].expand(*shape, *targets.shape[2:]).flatten(0, 2),
    )
    return (loss.sum(1) if loss.dim() == 2 else loss).reshape(shape)


def without_padding(labels: Tensor, mask: Tensor | None) -> Tensor:
    """Labels (B, T) with class 0 for padding, where anything may stand; one-hot ones as they
    are."""
    return labels if mask is None or labels.dim() == 3 else labels.masked_fill(~mask, 0)
