"""Several losses of the same logits in vis4d's LossModule."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType

from torch import Tensor, nn

from bench.workload import Function
from fastloss import losses as native
from fastloss.compat import smp, vis4d


def loss_module(
    engine: ModuleType,
    losses: ModuleType,
    logits: Tensor,  # (N, C, H, W)
    target: Tensor,  # (N, H, W)
    *,
    terms: Mapping[str, float],
    ignore_index: int,
) -> tuple[Tensor, dict[str, float]]:
    """Total and metrics of the LossModule of `engine` (vis4d.engine.loss_module, or
    `fastloss.compat.vis4d`) with the losses of smp, or of `fastloss.compat.smp`."""
    module = _module(engine, losses, tuple(terms.items()), ignore_index)
    return module({"logits": logits}, {"labels": target})


def apart(terms: Mapping[str, float], ignore_index: int) -> Function:
    """fastloss's own losses, called one by one."""
    made = {
        "cross_entropy": native.CrossEntropyLoss(ignore_index=ignore_index),
        "dice": smp.DiceLoss("multiclass", ignore_index=ignore_index),
        "sigmoid_focal": smp.FocalLoss("multiclass", ignore_index=ignore_index),
    }

    def total(logits: Tensor, target: Tensor) -> Tensor:
        return sum(weight * made[name](logits, target) for name, weight in terms.items())

    return total


ours = functools.partial(loss_module, vis4d, smp)


@functools.cache
def _module(
    engine: ModuleType,
    losses: ModuleType,
    terms: tuple[tuple[str, float], ...],
    ignore_index: int,
) -> nn.Module:
    made = {
        "cross_entropy": (nn.CrossEntropyLoss(ignore_index=ignore_index), "input", "target"),
        "dice": (losses.DiceLoss("multiclass", ignore_index=ignore_index), "y_pred", "y_true"),
        "sigmoid_focal": (
            losses.FocalLoss("multiclass", ignore_index=ignore_index), "y_pred", "y_true",
        ),
    }  # fmt: skip
    logits = {"key": "logits", "source": "prediction"}
    labels = {"key": "labels", "source": "data"}
    definitions = []
    for name, weight in terms:
        loss, first, second = made[name]
        connector = engine.LossConnector({first: logits, second: labels})
        definitions.append({"loss": loss, "connector": connector, "weight": weight})
    return engine.LossModule(definitions)
