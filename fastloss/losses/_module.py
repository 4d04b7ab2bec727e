"""The base of the native modules: options are attributes, forward calls one function."""

from typing import Any

from torch import Tensor, nn


class FunctionalLoss(nn.Module):
    """Calls `function(input, target, **options, weight=, reduction=, avg_factor=)`.

    Subclasses name their options in `__init__`; each is an attribute that may be changed later.
    """

    function: Any

    def __init__(self, **options: Any):
        super().__init__()
        self._names = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def forward(
        self,
        input: Tensor,
        target: Any,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        options = {name: getattr(self, name) for name in self._names}
        return type(self).function(input, target, weight=weight, avg_factor=avg_factor, **options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._names)
