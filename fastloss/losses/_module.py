"""The base of the native modules: options are attributes, forward calls one function."""

from typing import Any

from torch import Tensor, nn


class WithOptions(nn.Module):
    """Subclasses name their options in `__init__`; each is an attribute that may be changed
    later."""

    def __init__(self, **options: Any):
        super().__init__()
        self._names = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._options().items())


class FunctionalLoss(WithOptions):
    """Calls `function(input, target, **options, weight=, reduction=, avg_factor=)`."""

    function: Any

    def forward(
        self,
        input: Tensor,
        target: Any,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
    ) -> Tensor:
        function = type(self).function
        return function(input, target, weight=weight, avg_factor=avg_factor, **self._options())
