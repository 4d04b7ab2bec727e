"""Who takes part in a workload, and whether its numbers are right."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import fastloss
from bench import upstream
from bench.inputs import Inputs
from bench.timing import Step
from bench.workloads import Loss, Workload

EAGER, COMPILED, FASTLOSS = "eager", "compiled", "fastloss"


@dataclass(frozen=True)
class Contender:
    name: str
    source: str
    loss: Loss  # (pred, target, *, weight, avg_factor) -> scalar


@dataclass(frozen=True)
class Truth:
    """Loss and gradient of the plain baseline in float64, on the rounded inputs."""

    loss: float
    grad: Tensor


def plain(workload: Workload) -> Loss:
    module = importlib.import_module(f"bench.baselines.{workload.stem}")
    return partial(getattr(module, workload.call), **workload.options)


def eager(workload: Workload) -> Contender:
    """The upstream class where it can be imported, else the plain version."""
    if workload.upstream is not None:
        try:
            return Contender(EAGER, *upstream.load(workload.upstream))
        except ImportError:
            pass
    return Contender(EAGER, f"bench.baselines.{workload.stem}", plain(workload))


def compiled(workload: Workload) -> Contender:
    """`torch.compile` of the plain version, which has fewer graph breaks than the upstream classes
    (they test on the host whether any weight is positive): the stronger opponent of the two."""
    torch._dynamo.reset()
    source = f"torch.compile of bench.baselines.{workload.stem}"
    return Contender(COMPILED, source, torch.compile(plain(workload), dynamic=False))


def ours(workload: Workload, device: torch.device) -> Contender:
    function = getattr(fastloss.functional, workload.call)
    loss = partial(function, **workload.options, reduction="mean")
    return Contender(FASTLOSS, f"fastloss {_implementation(workload.stem, device)}", loss)


def _implementation(stem: str, device: torch.device) -> str:
    """Which kernels the dispatcher takes for the stem's ops on this device, without the remarks in
    brackets."""
    table = fastloss.backends()
    chosen = {table[op][device.type].split(" (")[0] for op in sorted(table) if op.startswith(stem)}
    return " and ".join(sorted(chosen))


def builders(
    workload: Workload, device: torch.device, with_compile: bool
) -> dict[str, Callable[[], Contender]]:
    """Name to a function that makes the contender; a peer's raises ImportError where it is not
    installed."""
    table: dict[str, Callable[[], Contender]] = {EAGER: partial(eager, workload)}
    if with_compile:
        table[COMPILED] = partial(compiled, workload)
    for peer in workload.peers:
        table[peer.name] = partial(_peer, peer.name, peer.make)
    table[FASTLOSS] = partial(ours, workload, device)
    return table


def _peer(name: str, make: Callable[[], Loss]) -> Contender:
    return Contender(name, name, make())


def make_step(loss: Loss, inputs: Inputs) -> Step:
    """Forward and backward, with the gradient freed again as an optimizer's zero_grad does."""
    pred = inputs.pred.detach().requires_grad_()

    def step() -> None:
        loss(pred, inputs.target, weight=inputs.weight, avg_factor=inputs.avg_factor).backward()
        pred.grad = None

    return step


def evaluate(loss: Loss, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """(loss, gradient)"""
    pred = inputs.pred.detach().requires_grad_()
    value = loss(pred, inputs.target, weight=inputs.weight, avg_factor=inputs.avg_factor)
    (grad,) = torch.autograd.grad(value, pred)
    return value.detach(), grad


def truth(workload: Workload, inputs: Inputs) -> Truth:
    value, grad = evaluate(plain(workload), inputs.to(torch.float64))
    return Truth(float(value), grad)


def error(loss: Loss, inputs: Inputs, expected: Truth) -> float:
    """The larger of the relative error of the loss and the relative L2 error of the gradient;
    infinite for NaN."""
    value, grad = evaluate(loss, inputs)
    of_value = abs(float(value) - expected.loss) / abs(expected.loss)
    of_grad = float((grad.double() - expected.grad).norm() / expected.grad.norm())
    worst = max(of_value, of_grad)
    return worst if math.isfinite(of_value) and math.isfinite(of_grad) else math.inf
