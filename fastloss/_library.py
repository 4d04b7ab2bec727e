"""The one place that talks to torch.library and autograd.

`register` turns a stem's schema and reference into two dispatcher ops, `fastloss::<name>` and
`fastloss::<name>_backward`, and returns the function that public code calls. Conventions:

- A schema lists tensors first, then parameters. The backward op takes the incoming gradient, the
  same arguments, and `needs`, a bit per differentiable tensor; it returns one gradient for each of
  them, an empty tensor where the bit is 0.
- The reference runs under the key CompositeExplicitAutograd; C++ and Triton add kernels for CPU
  and CUDA (`implement`), and PyTorch's dispatcher chooses.
- Autograd sits outside the ops, so that functorch transforms work: a classic autograd.Function on
  the usual path, one with setup_context and vmap while transforms are active.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._version import __version__

_PACKAGE = Path(__file__).parent
_LIBRARY = torch.library.Library("fastloss", "DEF")
BACKENDS = ("auto", "reference")


class _State:
    backend = os.environ.get("FASTLOSS_BACKEND", "auto")
    debug = os.environ.get("FASTLOSS_VALIDATE", "0") == "1"


if _State.backend not in BACKENDS:
    raise ValueError(f"FASTLOSS_BACKEND must be one of {BACKENDS}, got {_State.backend!r}")


@dataclass(frozen=True)
class Op:
    """A registered op. `implementations` maps "reference" and "triton" to Python callables."""

    name: str
    schema: str
    tensors: tuple[str, ...]
    differentiable: tuple[str, ...]
    implementations: dict[str, Callable[..., Any]] = field(default_factory=dict)


OPS: dict[str, Op] = {}
UNAVAILABLE: dict[str, str] = {}  # "cpp", "cuda", "triton" -> why it is not there


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Run every loss with the chosen backend inside the `with` block, in the whole process.

    "auto" lets the dispatcher choose; "reference" runs the pure-PyTorch specification as ordinary
    differentiable code, which also gives second derivatives. FASTLOSS_BACKEND sets the default.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {name!r}")
    previous, _State.backend = _State.backend, name
    try:
        yield
    finally:
        _State.backend = previous


@contextlib.contextmanager
def debug() -> Iterator[None]:
    """Check values (class indices in range) before every loss inside the `with` block.

    This reads tensors on the host. FASTLOSS_VALIDATE=1 switches it on for the process.
    """
    previous, _State.debug = _State.debug, True
    try:
        yield
    finally:
        _State.debug = previous


def implement(name: str, language: str, function: Callable[..., Any]) -> None:
    """Register `function` as the kernel of op `name` for CUDA tensors."""
    OPS[name].implementations[language] = function
    _LIBRARY.impl(name, function, "CUDA")


def register(
    name: str,
    schema: str,
    forward: Callable[..., Tensor],
    backward: Callable[..., Sequence[Tensor]],
    differentiable: Sequence[str],
    check: Callable[..., None] | None = None,
) -> Callable[..., Tensor]:
    """Define the ops `name` and `name_backward` and return the differentiable function.

    `forward` and `backward` are the reference; they read no value, so they are the fake kernels
    too. `check` may read values: it raises for bad ones, in debug mode and on the CPU fallback.
    """
    arguments = [part.split() for part in schema.strip()[1:].split(")")[0].split(",")]
    tensors = tuple(word[1] for word in arguments if word[0] in ("Tensor", "Tensor?"))
    outputs = ", ".join("Tensor" for _ in differentiable)
    schemas = {
        name: f"{schema} -> Tensor",
        f"{name}_backward": f"(Tensor grad, {schema.strip()[1:-1]}, int needs) -> ({outputs})",
    }
    for op_name, function in ((name, forward), (f"{name}_backward", backward)):
        _LIBRARY.define(op_name + schemas[op_name], tags=torch.Tag.pt2_compliant_tag)
        fallback = _fallback(function, check if op_name == name else None, len(differentiable))
        _LIBRARY.impl(op_name, fallback, "CompositeExplicitAutograd")
        torch.library.register_fake(f"fastloss::{op_name}", _tuple(function), lib=_LIBRARY)
        OPS[op_name] = Op(
            op_name, schemas[op_name], tensors, tuple(differentiable), {"reference": function}
        )
    return _differentiable(name, OPS[name], forward, check)


def _tuple(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reference backward returns a list; an op returns a tuple, or the tensor if there is one."""

    def call(*args: Any) -> Any:
        result = function(*args)
        return result if isinstance(result, Tensor) else _unpack(result)

    return call


def _unpack(result: Sequence[Tensor]) -> Any:
    return tuple(result) if len(result) > 1 else result[0]


def _fallback(function: Callable[..., Any], check: Any, outputs: int) -> Callable[..., Any]:
    call = _tuple(function)

    def run(*args: Any) -> Any:
        if check is not None and args[0].device.type == "cpu":
            check(*args)
        with torch.no_grad():
            return call(*args)

    return run


def _differentiable(name: str, op: Op, reference: Callable[..., Tensor], check: Any) -> Any:
    forward_op = getattr(torch.ops.fastloss, name).default
    backward_op = getattr(torch.ops.fastloss, f"{name}_backward").default
    count = len(op.tensors)
    positions = [op.tensors.index(argument) for argument in op.differentiable]

    def vmap(function: Any) -> Any:
        def rule(info: Any, in_dims: Any, *args: Any) -> Any:
            """One call per sample: the losses have no batch of problems inside."""

            def sample(i: int) -> Any:
                picked = (a if d is None else a.select(d, i) for a, d in zip(args, in_dims))
                return function.apply(*picked)

            results = [sample(i) for i in range(info.batch_size)]
            if isinstance(results[0], Tensor):
                return torch.stack(results), 0
            return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])

        return staticmethod(rule)

    class Gradient(torch.autograd.Function):
        """The backward op, for callers that keep its graph; differentiating it again raises."""

        @staticmethod
        def forward(*args: Any) -> Any:
            return backward_op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            raise RuntimeError(
                f"fastloss.{name} has no second derivative: its backward is a fused kernel. "
                'Use `with fastloss.backend("reference"):`, which computes it.'
            )

    def propagate(ctx: Any, grad: Tensor) -> Any:
        needed = ctx.needs_input_grad
        needs = sum(1 << i for i, position in enumerate(positions) if needed[position])
        run = Gradient.apply if torch.is_grad_enabled() else backward_op
        results = run(grad, *ctx.saved_tensors, *ctx.parameters, needs)
        results = (results,) if isinstance(results, Tensor) else results
        grads: list[Tensor | None] = [None] * len(needed)
        for i, position in enumerate(positions):
            if needs >> i & 1:
                grads[position] = results[i]
        return tuple(grads)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Tensor:
            ctx.save_for_backward(*args[:count])
            ctx.parameters = args[count:]
            return forward_op(*args)

        backward = staticmethod(propagate)

    class TransformedLoss(torch.autograd.Function):
        """`Loss` for functorch: torch.func.grad, vmap, jacrev. Binding arguments by name makes it 15 us slower."""

        @staticmethod
        def forward(*args: Any) -> Tensor:
            return forward_op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs[:count])
            ctx.parameters = inputs[count:]

        backward = staticmethod(propagate)

    Gradient.vmap = vmap(Gradient)
    TransformedLoss.vmap = vmap(TransformedLoss)

    def call(*args: Any) -> Tensor:
        if _State.debug and check is not None:
            check(*args)
        if _State.backend == "reference":
            if check is not None and args[0].device.type == "cpu":
                check(*args)
            return reference(*args)
        if torch._C._are_functorch_transforms_active():
            return TransformedLoss.apply(*args)
        if torch.is_grad_enabled() and any(
            args[position] is not None and args[position].requires_grad for position in positions
        ):
            return Loss.apply(*args)
        return forward_op(*args)

    return call


def build_info() -> dict[str, str]:
    """What setup.py wrote about the build; empty for a source tree that was never built."""
    path = _PACKAGE / "_build_info.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def gpu_runs() -> dict[str, dict[str, str]]:
    """Op -> the GPU, commit and date of its last recorded run on one (written by gpu-check)."""
    return json.loads((_PACKAGE / "_gpu_runs.json").read_text())


def load_kernels() -> None:
    """Load the shared objects and the Triton kernels; whatever is missing leaves its reason."""
    info = build_info()
    for part, file in (("cpp", "_C.so"), ("cuda", "_C_cuda.so")):
        path = _PACKAGE / file
        if not path.is_file():
            UNAVAILABLE[part] = info.get(part, "not built")
        elif info.get("version", __version__) != __version__:
            UNAVAILABLE[part] = f"{file} was built for fastloss {info['version']}: rebuild it"
        else:
            try:
                torch.ops.load_library(path)
            except (OSError, RuntimeError) as error:
                UNAVAILABLE[part] = f"{file} does not load: {error}"
    try:
        from . import _triton  # noqa: F401
    except Exception as error:  # importing Triton raises more than ImportError on some systems
        UNAVAILABLE["triton"] = f"{type(error).__name__}: {error}"


def _has_kernel(op: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fastloss::{op}", key)


def backends() -> dict[str, dict[str, str]]:
    """Which implementation of each op runs on "cpu" and "cuda" tensors, with the reason why a
    faster one does not, and whether the CUDA kernel has been seen running on a GPU."""
    runs = gpu_runs()
    table = {}
    for name, op in OPS.items():
        if _has_kernel(name, "CPU"):
            cpu = "C++"
        else:
            cpu = f"reference (no C++: {UNAVAILABLE.get('cpp', 'no kernel in the binary')})"
        if _has_kernel(name, "CUDA"):
            cuda = "Triton" if "triton" in op.implementations else "CUDA C++"
            run = runs.get(name)
            cuda += f" (run on {run['gpu']} at {run['commit']})" if run else " (never run on a GPU)"
        else:
            cuda = f"reference (no Triton: {UNAVAILABLE.get('triton', 'no kernel')})"
        if _State.backend == "reference":
            cpu = cuda = 'reference (backend "reference" is set)'
        table[name] = {"cpu": cpu, "cuda": cuda}
    return table
