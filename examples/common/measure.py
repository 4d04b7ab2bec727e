"""What is recorded while a variant trains, and the clock that records it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Run:
    """One variant trained once with one seed."""

    losses: list[torch.Tensor] = field(default_factory=list)  # one () tensor per step
    loss_ms: list[float] = field(default_factory=list)  # per step, loss forward and backward
    step_ms: list[float] = field(default_factory=list)  # per step, everything
    loss_bytes: int = 0  # most memory the loss held at once, its gradient included
    result: Any = None  # what the trained network answers on the held-out part

    def curve(self) -> list[float]:
        return torch.stack(self.losses).tolist()


def loss_ms(runs: list[Run]) -> float:
    """Median over all steps of all seeds, so that one slow moment of the machine counts little."""
    return statistics.median(ms for run in runs for ms in run.loss_ms)


def step_ms(runs: list[Run]) -> float:
    return statistics.median(ms for run in runs for ms in run.step_ms)


def largest_difference(first: list[Run], second: list[Run]) -> float:
    """Between two loss curves at the same step of the same seed.

    A few 1e-7 is rounding. A few 1e-4 can come from rounding too: GIoU has a kink where an edge of
    the box meets the target's, and the last bit of that edge decides the gradient of one cell. So
    it does where a loss sorts, takes a maximum or chooses pixels (Lovász, boundary, OHEM): two runs
    of the plain losses whose first weights differ in the last bit drift 1e-3 and more apart.
    """
    pairs = zip(first, second, strict=True)
    return max(
        abs(a - b) for one, two in pairs for a, b in zip(one.curve(), two.curve(), strict=True)
    )


@contextmanager
def clock(record: list[float], device: torch.device) -> Iterator[None]:
    """Append the milliseconds of the block to `record`; on a GPU, of the work it queued too."""
    _finish(device)
    start = time.perf_counter()
    yield
    _finish(device)
    record.append((time.perf_counter() - start) * 1e3)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
