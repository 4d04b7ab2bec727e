"""Who takes part in a workload, and whether its numbers are right."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastloss
from bench import upstream
from bench.inputs import Inputs
from bench.timing import Step
from bench.workload import Function, Upstream, Workload

EAGER, COMPILED, FASTLOSS = "eager", "compiled", "fastloss"


@dataclass(frozen=True)
class Contender:
    name: str
    source: str
    function: Function  # called with `Inputs.arguments` and `Inputs.named`


def plain(workload: Workload) -> Function:
    if workload.call is None:
        return upstream.load(workload.upstream)[1]
    module = importlib.import_module(f"bench.baselines.{workload.stem}")
    return partial(getattr(module, workload.call), **workload.options)


def eager(workload: Workload) -> Contender:
    """The upstream class or function where it can be imported, else the plain version."""
    if workload.upstream:
        try:
            return Contender(EAGER, *upstream.load(workload.upstream))
        except ImportError:
            pass
    return Contender(EAGER, f"bench.baselines.{workload.stem}", plain(workload))


def compiled(workload: Workload) -> Contender:
    """`torch.compile` of the plain version, which has fewer graph breaks than the upstream classes
    (they test on the host whether any weight is positive): the stronger opponent of the two. Where
    there is no plain version, of the upstream class."""
    torch._dynamo.reset()
    source = "torch.compile of the upstream class"
    if workload.call is not None:
        source = f"torch.compile of bench.baselines.{workload.stem}"
    return Contender(COMPILED, source, torch.compile(plain(workload), dynamic=False))


def ours(workload: Workload, device: torch.device) -> Contender:
    if isinstance(workload.ours, Upstream):
        return Contender(FASTLOSS, *upstream.load((workload.ours,)))
    function = workload.ours or getattr(fastloss.functional, workload.call)
    function = partial(function, **workload.options)
    if workload.reduces:  # the baselines of losses always do
        function = partial(function, reduction="mean")
    return Contender(FASTLOSS, f"fastloss {_implementation(workload.stem, device)}", function)


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
    if workload.group is not None:
        return {FASTLOSS: partial(ours, workload, device)}
    table: dict[str, Callable[[], Contender]] = {EAGER: partial(eager, workload)}
    if with_compile:
        table[COMPILED] = partial(compiled, workload)
    for peer in workload.peers:
        table[peer.name] = partial(_peer, peer.name, peer.make)
    table[FASTLOSS] = partial(ours, workload, device)
    return table


def _peer(name: str, make: Callable[[], Function]) -> Contender:
    return Contender(name, name, make())


def make_step(function: Function, inputs: Inputs) -> Step:
    """The forward alone, or forward and backward with the gradients freed again, as an optimizer's
    zero_grad does."""
    leaves, arguments = _leaves(inputs)

    def forward() -> None:
        with torch.no_grad():
            function(*arguments, **inputs.named)

    def both() -> None:
        _main(function(*arguments, **inputs.named)).backward(inputs.incoming)
        for leaf in leaves:
            leaf.grad = None

    return both if leaves else forward


def _main(result: Tensor | tuple[Tensor, Any]) -> Tensor:
    """The total of a loss that reports its terms beside it."""
    return result[0] if isinstance(result, tuple) else result


def _leaves(inputs: Inputs) -> tuple[list[Tensor], tuple[Any, ...]]:
    """The arguments that gradients are taken for, and all arguments."""
    count = inputs.differentiable
    leaves = [argument.detach().requires_grad_() for argument in inputs.arguments[:count]]
    return leaves, (*leaves, *inputs.arguments[count:])


def evaluate(function: Function, inputs: Inputs) -> list[Tensor]:
    """The result and the gradients."""
    leaves, arguments = _leaves(inputs)
    with torch.set_grad_enabled(bool(leaves)):
        result = _main(function(*arguments, **inputs.named))
    grads = torch.autograd.grad(result, leaves, inputs.incoming) if leaves else ()
    return [result.detach(), *grads]


def truth(workload: Workload, inputs: Inputs) -> list[Tensor]:
    """Result and gradients of the plain baseline in float64, on the rounded inputs."""
    return evaluate(plain(workload), inputs.to(torch.float64))


def error(function: Function, inputs: Inputs, expected: Sequence[Tensor]) -> float:
    """The largest of the relative L2 errors of result and gradients; infinite for NaN and for a
    wrong shape."""
    worst = 0.0
    for actual, exact in zip(evaluate(function, inputs), expected, strict=True):
        if actual.shape != exact.shape:
            return math.inf
        relative = float((actual.double() - exact).norm() / exact.double().norm())
        if not math.isfinite(relative):
            return math.inf
        worst = max(worst, relative)
    return worst
