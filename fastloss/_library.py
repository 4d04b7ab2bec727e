"""The one place that talks to torch.library, and the switches that act on every loss.

`register` turns a stem's schema and reference into the dispatcher ops `fastloss::<name>`,
`fastloss::<name>_backward` and, for losses with a reduction, `fastloss::<name>_with_gradient`, and
returns the function that public code calls (see `_autograd` for when which op runs). Conventions:

- A schema lists tensors first, then parameters. The backward op takes the incoming gradient, the
  same arguments, and `needs`, a bit per differentiable tensor; it returns one gradient for each of
  them, an empty tensor where the bit is 0. The op with gradient takes the arguments of the forward,
  reduction not "none", and returns the loss and the gradient of the first tensor. An op without a
  differentiable tensor, such as a choice of elements, has the forward alone.
- The reference is the fake kernel too, unless it reads values: then `fake` is.
- The reference runs under the key CompositeExplicitAutograd; C++ and Triton add kernels for CPU
  and CUDA (`implement`), and PyTorch's dispatcher chooses.
- Autograd sits outside the ops, so that functorch transforms work.
"""

import contextlib
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._autograd import differentiable_loss
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
    """A registered op. `implementations` maps "reference" and, where they exist, "triton" or "host"
    to Python callables, `helpers` a language to what PyTorch's own operations do between its
    kernels."""

    name: str
    schema: str
    tensors: tuple[str, ...]
    differentiable: tuple[str, ...]
    implementations: dict[str, Callable[..., Any]] = field(default_factory=dict)
    helpers: dict[str, str] = field(default_factory=dict)


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


def values_may_be_read(tensor: Tensor) -> bool:
    """Whether a check may read values: where the host does not wait for them, or in debug mode."""
    if torch.compiler.is_compiling():
        return False
    return tensor.device.type == "cpu" or (_State.debug and tensor.device.type != "meta")


def implement(name: str, language: str, function: Callable[..., Any], helper: str = "") -> None:
    """Register `function` as the kernel of op `name` for CUDA tensors; `helper` is what PyTorch's
    own operations do in it, such as "torch.sort". Language "host" is a function that hands the
    work to the CPU kernel, for an op without a CUDA kernel."""
    OPS[name].implementations[language] = function
    OPS[name].helpers[language] = helper
    _LIBRARY.impl(name, function, "CUDA")


def register(
    name: str,
    schema: str,
    forward: Callable[..., Any],
    backward: Callable[..., Sequence[Tensor]] | None = None,
    differentiable: Sequence[str] = (),
    check: Callable[..., None] | None = None,
    returns: str = "Tensor",
    fake: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Define the ops of `name` and return the function, differentiable in the tensors named.

    `forward` and `backward` are the reference; they read no value, so they are the fake kernels
    too, unless `fake` is given for the forward. `check` may read values: it raises for bad ones,
    in debug mode and on the CPU fallback.
    """
    arguments = [part.split() for part in schema.strip()[1:].split(")")[0].split(",")]
    names = tuple(word[1] for word in arguments)
    tensors = tuple(word[1] for word in arguments if word[0] in ("Tensor", "Tensor?"))
    outputs = ", ".join("Tensor" for _ in differentiable)

    def with_gradient(*args: Any) -> tuple[Tensor, Tensor]:
        loss = forward(*args)
        return loss, backward(torch.ones_like(loss), *args, 1)[0]

    reduction = names.index("reduction") if "reduction" in names else None
    ops: list[tuple[str, str, Callable[..., Any]]] = [(name, f"{schema} -> {returns}", forward)]
    if differentiable:
        backward_schema = f"(Tensor grad, {schema[1:-1]}, int needs) -> ({outputs})"
        ops.append((f"{name}_backward", backward_schema, backward))
    if reduction is not None:
        ops.append((f"{name}_with_gradient", f"{schema} -> (Tensor, Tensor)", with_gradient))
    for op_name, op_schema, function in ops:
        _LIBRARY.define(op_name + op_schema, tags=torch.Tag.pt2_compliant_tag)
        checked = None if function is backward else check
        _LIBRARY.impl(op_name, _fallback(function, checked), "CompositeExplicitAutograd")
        shape = fake if fake is not None and function is forward else function
        torch.library.register_fake(f"fastloss::{op_name}", _tuple(shape), lib=_LIBRARY)
        implementations = {"reference": function}
        OPS[op_name] = Op(op_name, op_schema, tensors, tuple(differentiable), implementations)
    if differentiable:
        positions = [tensors.index(argument) for argument in differentiable]
        loss = differentiable_loss(name, len(tensors), positions, reduction)
    else:
        loss = getattr(torch.ops.fastloss, name).default

    def call(*args: Any) -> Any:
        reference = _State.backend == "reference"
        if check is not None and (_State.debug or (reference and args[0].device.type == "cpu")):
            check(*args)
        return forward(*args) if reference else loss(*args)

    return call


def _scale(gradient: Tensor, factor: Tensor) -> None:
    """gradient *= factor. The kernels leave the gradient alone when the factor is 1."""
    gradient.mul_(factor)


_LIBRARY.define("scale_(Tensor(a!) gradient, Tensor factor) -> ()")
_LIBRARY.impl("scale_", _scale, "CompositeExplicitAutograd")
OPS["scale_"] = Op(
    "scale_",
    "(Tensor(a!) gradient, Tensor factor) -> ()",
    ("gradient", "factor"),
    (),
    {"reference": _scale},
)


# Bytes of logits read and of their gradients written by the C++ kernels of the segmentation ops
# since it was last called.
_LIBRARY.define("_traffic() -> int[]")


def _tuple(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reference returns a tensor or several; an op a tuple, or the tensor if there is one."""

    def call(*args: Any) -> Any:
        result = function(*args)
        return result if isinstance(result, Tensor) else _unpack(result)

    return call


def _unpack(result: Sequence[Tensor]) -> Any:
    return tuple(result) if len(result) > 1 else result[0]


def _fallback(function: Callable[..., Any], check: Any) -> Callable[..., Any]:
    call = _tuple(function)

    def run(*args: Any) -> Any:
        if check is not None and args[0].device.type == "cpu":
            check(*args)
        with torch.no_grad():
            return call(*args)

    return run


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
        path, recorded = _PACKAGE / file, info.get("sha256", {}).get(file)
        if not path.is_file():
            reason = info.get(part, "not built")
            UNAVAILABLE[part] = f"{file} is missing: reinstall" if reason == "built" else reason
        elif info.get("version", __version__) != __version__:
            UNAVAILABLE[part] = f"{file} was built for fastloss {info['version']}: rebuild it"
        elif recorded not in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
            # Loading a truncated file would end the process, not raise.
            UNAVAILABLE[part] = f"{file} is damaged or from another build: reinstall"
        else:
            try:
                torch.ops.load_library(path)
            except (OSError, RuntimeError) as error:
                UNAVAILABLE[part] = f"{file} does not load: {error}"
    try:
        importlib.import_module("fastloss._triton")
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
            names = {"triton": "Triton", "host": f"{cpu} on the CPU"}
            language = next((x for x in names if x in op.implementations), None)
            cuda = names.get(language, "CUDA C++")
            cuda += f" and {op.helpers[language]}" if op.helpers.get(language) else ""
            run = runs.get(name)
            cuda += f" (run on {run['gpu']} at {run['commit']})" if run else " (never run on a GPU)"
        else:
            cuda = f"reference (no Triton: {UNAVAILABLE.get('triton', 'no kernel')})"
        if _State.backend == "reference":
            cpu = cuda = 'reference (backend "reference" is set)'
        table[name] = {"cpu": cpu, "cuda": cuda}
    return table
