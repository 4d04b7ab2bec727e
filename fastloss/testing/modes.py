"""Dispatch modes that look at, or replace, the fastloss ops of a piece of code."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .._library import OPS, _unpack

_HOST_READS = {
    "aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::masked_select",
    "aten::nonzero", "aten::item", "aten::_unique2", "aten::allclose",
}  # fmt: skip


def _op_of(function: Any) -> Any:
    """The registered op that `function` is an overload of, or None."""
    namespace, _, name = function.name().partition("::")
    return OPS.get(name.split(".")[0]) if namespace == "fastloss" else None


class implementation(TorchDispatchMode):
    """Run every fastloss op, forward and backward, with one Python implementation: "reference",
    "triton" (on CPU tensors through Triton's interpreter), or "host" (ops that hand CUDA tensors to
    the CPU kernel). NotImplementedError: there is none."""

    def __init__(self, language: str):
        super().__init__()
        self.language = language

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        op = _op_of(function)
        if op is None:
            return function(*args, **(kwargs or {}))
        if self.language not in op.implementations:
            raise NotImplementedError(f"{op.name} has no {self.language} implementation")
        with torch.no_grad():
            result = op.implementations[self.language](*args)
        return _unpack(result) if isinstance(result, (tuple, list)) else result


class _Capture(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        op = _op_of(function)
        if op is not None:
            self.calls.append((op.name, args))
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def capture() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """The list of (op name, arguments) of every fastloss op called inside the `with` block."""
    with _Capture() as mode:
        yield mode.calls


class forbid_host_reads(TorchDispatchMode):
    """Raise RuntimeError on reads of a value by the host, data-dependent shapes, device copies."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name().split(".")[0]
        kwargs = kwargs or {}
        boolean_index = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        moved = name == "aten::_to_copy" and kwargs.get("device") not in (None, args[0].device)
        if name in _HOST_READS or boolean_index or moved:
            raise RuntimeError(f"{function.name()} reads values on the host or moves them")
        return function(*args, **kwargs)
