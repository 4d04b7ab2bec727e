"""Whether a fused kernel may take the place of a module."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as torch_module

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(module: object, *classes: type[nn.Module]) -> bool:
    """Whether calling the module does what one of these classes does and nothing more: it is of
    exactly that class, without hooks or a forward of its own, and no hook is on all modules."""
    return (
        type(module) in classes
        and "forward" not in vars(module)
        and not any(vars(module).get(name) for name in _HOOKS)
        and not torch_module._has_any_global_hook()
    )
