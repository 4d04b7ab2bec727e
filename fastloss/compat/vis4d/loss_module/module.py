"""LossModule and LossDefinition (vis4d 1.0.0, engine/loss_module.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from fastloss.compat.vis4d.connectors import LossConnector
from fastloss.compat.vis4d.loss_module.metrics import Metrics
from fastloss.compat.vis4d.loss_module.passes import Pass, run
from fastloss.compat.vis4d.loss_module.results import by_name


class _Required(TypedDict):
    loss: nn.Module
    connector: LossConnector


class LossDefinition(_Required, total=False):
    """A loss of a `LossModule`: `loss`, any callable; `connector`, which chooses its arguments;
    `weight`, a number or numbers by name of the value, default 1; `name`, default that of the class
    of the loss."""

    weight: float | dict[str, float]
    name: str


class LossModule(nn.Module):
    """The weighted sum of losses, each called with what its connector chooses.

    Losses that read the same tensors are computed together, in one pass over them, where their
    classes are known: cross entropy, Dice, focal and others on the same logits and labels; squared,
    absolute and smooth absolute differences of the same pair. `plan` tells what was. Values are
    those of the losses one by one. A class derived from a known one, a module with hooks or with a
    forward of its own is always called itself.

    Args:
        losses: one `LossDefinition` or a list of them; AssertionError without "loss" or
            "connector". They are copied, not written to.
        exclude_attributes: names of values that are reported but not part of the sum.

    Call: ``module(output, batch)`` -> (total, metrics). Each loss is called with
    ``connector(output, batch)`` by name. A tensor is kept under the name of the loss, entries of a
    dict, nested too, under "name.key.subkey", fields of a named tuple under "name.field", unless
    they are None; ValueError: something else in a dict, or a result that is none of these, nor None
    (which vis4d leaves out in silence). Each is multiplied by the weight: a number, or the entry of
    a dict under that full name, 1 if it has none; TypeError: they cannot be multiplied. "__" is put
    before a name as long as it is taken. The total is the sum of the values (0 where there is none:
    vis4d fails), and `metrics` their numbers with the total under "loss": a dict that fetches them
    from the device, in one transfer, when they are looked at. RuntimeError: a value with another
    number of elements than one.

    As upstream, `losses` is a plain list: the losses are not sub-modules, and their parameters not
    parameters of this module.

    >>> same = LossConnector({"input": pred_key("input"), "target": data_key("target")})
    >>> loss = LossModule(
    ...     [
    ...         {"loss": nn.MSELoss(), "weight": 0.7, "connector": same},
    ...         {"loss": nn.L1Loss(), "weight": 0.3, "connector": same},
    ...     ]
    ... )
    >>> loss({"input": torch.tensor([1.0, 2.0])}, {"target": torch.tensor([2.0, 4.0])})
    (tensor(2.2000), {'MSELoss': 1.75, 'L1Loss': 0.45000001788139343, 'loss': 2.200000047683716})
    """

    def __init__(
        self,
        losses: list[LossDefinition] | LossDefinition,
        exclude_attributes: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.losses: list[LossDefinition] = [
            _complete(loss) for loss in (losses if isinstance(losses, list) else [losses])
        ]
        self.exclude_attributes = exclude_attributes
        self._passes: list[Pass] = []

    def forward(
        self, output: Mapping[str, Any] | NamedTuple, batch: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, float]]:
        """Prediction and batch -> (total, metrics)."""
        values: dict[str, Tensor] = {}
        results, self._passes = run(self.losses, output, batch)
        for loss, result in zip(self.losses, results, strict=True):
            for key, value in by_name(loss["name"], result).items():
                if value is None:
                    continue
                weight = loss["weight"]
                weight = weight.get(key, 1.0) if isinstance(weight, dict) else weight
                while key in values:
                    key = "__" + key
                values[key] = _weighted(key, weight, value)
        total = self._sum(values)
        metrics = Metrics.on_device(
            {key: _one_number(key, value) for key, value in {**values, "loss": total}.items()}
        )
        return 0 + total, metrics  # apart from what is waiting, so that it may be written to

    @property
    def plan(self) -> str:
        """How the last call went: a line for each pass with the losses in it, or for a loss that
        was alone, with the reason. Empty before the first call."""
        return "\n".join(map(str, self._passes))

    def _sum(self, values: dict[str, Tensor]) -> Tensor:
        excluded = () if self.exclude_attributes is None else self.exclude_attributes
        kept = [value for key, value in values.items() if key not in excluded]
        if kept:
            return sum(kept[1:], kept[0])
        like = next(iter(values.values()), torch.zeros(()))
        return like.new_zeros(())


def _complete(definition: LossDefinition) -> LossDefinition:
    """A copy with a name and a weight."""
    for key in ("loss", "connector"):
        if key not in definition:
            raise AssertionError(f"a loss definition needs {key!r}, got {list(definition)}")
    return {"name": type(definition["loss"]).__name__, "weight": 1.0, **definition}


def _weighted(key: str, weight: Any, value: Any) -> Tensor:
    try:
        return torch.mul(weight, value)
    except TypeError as error:
        raise TypeError(
            f"the loss {key!r} must be a tensor and its weight a number, "
            f"got {type(value).__name__} and {type(weight).__name__}"
        ) from error


def _one_number(key: str, value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise RuntimeError(f"the loss {key!r} must be one number, got {tuple(value.shape)}")
    return value.detach()
