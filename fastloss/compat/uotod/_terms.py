"""What fused kernels may take the place of: the modules of a loss, one by one."""

from __future__ import annotations

from torch import nn

from fastloss.compat.uotod.loss.multiple import MultipleObjectiveLoss

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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
    """Whether calling the module does what one of these classes does, row by row: it is of exactly
    that class, without hooks, a forward of its own or a reduction."""
    return (
        type(module) in classes
        and "forward" not in vars(module)
        and not any(vars(module).get(name) for name in _HOOKS)
        and module.reduction == "none"
    )
