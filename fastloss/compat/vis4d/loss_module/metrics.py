"""A dict of numbers that stay on the device until somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class Metrics(dict):
    """dict[str, float] whose numbers are fetched, all in one transfer, when one of them is needed.

    Keys, their number and order are known at once. Whatever shows or hands out a value fetches
    first: an entry, values(), items(), a comparison, repr, a copy, pickle, json. What is copied or
    pickled is a plain dict. Only code that reads the memory of a dict without its methods (some C
    extensions) sees NaN before: give it ``dict(metrics)``.
    """

    @classmethod
    def on_device(cls, values: Mapping[str, Tensor]) -> Metrics:
        """Of tensors with one element, which nobody may write to later."""
        metrics = cls(dict.fromkeys(values, float("nan")))
        metrics._waiting = dict(values)
        return metrics

    _waiting: dict[str, Tensor] = {}  # noqa: RUF012 - never written to: replaced by an instance's

    def _fetch(self) -> None:
        waiting = self._waiting
        if waiting:
            super().update(zip(waiting, _numbers(list(waiting.values())), strict=True))
            self._waiting = {}  # last: not if that failed, and not before another thread can read

    def __setitem__(self, key: str, value: Any) -> None:
        self._waiting = {name: x for name, x in self._waiting.items() if name != key}
        super().__setitem__(key, value)

    def __iter__(self) -> Iterator[str]:
        # Its own, so that dict(metrics) and {**metrics} ask for every entry, not for the memory.
        return super().__iter__()

    def copy(self) -> dict[str, float]:
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _after_fetching(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def call(self: Metrics, *args: Any, **kwargs: Any) -> Any:
        for metrics in (self, *args):  # the other side of a comparison may be waiting too
            if isinstance(metrics, Metrics):
                metrics._fetch()
        return method(self, *args, **kwargs)

    call.__name__, call.__doc__ = name, method.__doc__
    return call


for _name in (
    "__getitem__", "get", "values", "items", "__eq__", "__ne__", "__repr__", "__or__", "__ror__",
    "__ior__", "__delitem__", "pop", "popitem", "setdefault", "update", "clear",
):  # fmt: skip
    setattr(Metrics, _name, _after_fetching(_name))


def _numbers(values: list[Tensor]) -> list[float]:
    """Scalars as Python numbers; one transfer, whatever their dtypes and devices."""
    device = next((x.device for x in values if x.device.type != "cpu"), values[0].device)
    dtypes = {x.dtype for x in values}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float64
    return torch.stack([x.reshape(()).to(device, dtype) for x in values]).tolist()
