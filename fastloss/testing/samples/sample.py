"""One call of a public loss."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


@dataclass(frozen=True)
class Sample:
    """`function(**inputs, **options)`, inputs in float64 on the CPU until `cast`.

    Every floating tensor in `inputs` is differentiable unless named in `constant`, which names all
    of them where the op has no gradient. Tags: "small" (cheap to run often), "smooth" (finite
    differences hold), "edge" (degenerate values), "large" (beyond one block of any kernel), "apart"
    (large, for kernels that no other sample reaches), "chosen" (by an op without a gradient; torch
    differentiates), "host" (by an op that runs on the CPU wherever its tensors are).
    `scale` is the magnitude of results that may cancel to 0.
    """

    name: str
    function: Callable[..., Tensor]
    inputs: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    constant: tuple[str, ...] = ("avg_factor", "class_weight")
    tags: frozenset[str] = frozenset()
    scale: float = 0.0

    def map(self, function: Callable[[Tensor], Any]) -> "Sample":
        """This sample with `function` applied to every input tensor."""
        return replace(
            self,
            inputs=tree_map(lambda x: function(x) if isinstance(x, Tensor) else x, self.inputs),
        )

    def cast(self, dtype: torch.dtype, device: str | torch.device = "cpu") -> "Sample":
        """Floating inputs rounded to `dtype`, all on `device`."""
        return self.map(lambda x: x.to(device, dtype if x.is_floating_point() else x.dtype))

    def with_options(self, **options: Any) -> "Sample":
        """This sample with some options replaced."""
        return replace(self, options={**self.options, **options})

    def __call__(self, inputs: dict[str, Any] | None = None) -> Tensor:
        return self.function(**(self.inputs if inputs is None else inputs), **self.options)

    def leaves(self) -> dict[str, Tensor]:
        """The differentiable inputs by name; parts of a tuple are "name.0", "name.1"."""
        found = {}
        for name, value in self.inputs.items():
            parts = value if isinstance(value, tuple) else (value,)
            for i, part in enumerate(parts):
                if (
                    isinstance(part, Tensor)
                    and part.is_floating_point()
                    and name not in self.constant
                ):
                    found[f"{name}.{i}" if len(parts) > 1 else name] = part
        return found

    def bind(self, leaves: dict[str, Tensor]) -> dict[str, Any]:
        """The inputs with the differentiable ones replaced by `leaves`."""

        def pick(name: str, value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(leaves.get(f"{name}.{i}", part) for i, part in enumerate(value))
            return leaves.get(name, value)

        return {name: pick(name, value) for name, value in self.inputs.items()}

    def run(self, only_first: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Value and gradients to all leaves, or to the first alone (another path in `_autograd`).

        The incoming gradient is fixed, see `incoming`.
        """
        leaves = {name: x.detach().requires_grad_() for name, x in self.leaves().items()}
        leaves = dict(list(leaves.items())[:1]) if only_first else leaves
        value = self(self.bind(leaves))
        if not leaves:
            return value, {}
        gradients = torch.autograd.grad(value, list(leaves.values()), incoming(value))
        return value.detach(), dict(zip(leaves, gradients))

    def expected(self) -> tuple[Tensor, dict[str, Tensor]]:
        """`run` in float64 by the explicit backward of the reference, on these inputs' values."""
        from ..modes import implementation

        with implementation("reference"):
            return self.cast(torch.float64).run()


def incoming(value: Tensor) -> Tensor:
    """A gradient exact in every dtype: multiples of 1/2 between -1.5 and 1.5."""
    steps = torch.arange(value.numel(), device=value.device) % 7
    return ((steps - 3) * 0.5 if value.dim() else steps + 1.0).to(value.dtype).reshape(value.shape)


def generator(seed: int) -> torch.Generator:
    """A CPU generator; samples are the same on every machine."""
    return torch.Generator().manual_seed(seed)
