"""Alternating rounds of several contenders in one process, and the statistics over the rounds.

Rounds alternate (A B C, A B C, ...) so that a slow spell of the machine hits all contenders alike,
and ratios are taken within a round before the median over rounds.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

Step = Callable[[], None]
Name = TypeVar("Name", bound=Hashable)

# Length of one contender's round: long against the clock's resolution, short against the spells
# in which other programs disturb a machine.
ROUND_MS = 100.0
# No step that a bench is about takes less than a tenth of a millisecond.
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Timing:
    """Milliseconds per iteration, one entry per round; `wall` beside the clock that counts."""

    ms: tuple[float, ...]
    wall_ms: tuple[float, ...]
    iterations: int

    def median(self) -> float:
        return quantile(self.ms, 0.5)

    def quantile(self, q: float) -> float:
        return quantile(self.ms, q)


class Clock:
    """Milliseconds per iteration of a step; the subclasses say by which clock."""

    name = "wall"

    def measure(self, step: Step, iterations: int) -> tuple[float, float]:
        """(ms by this clock, ms by the wall clock), per iteration."""
        start = time.perf_counter()
        for _ in range(iterations):
            step()
        wall = (time.perf_counter() - start) * 1e3 / iterations
        return wall, wall


class ProcessClock(Clock):
    """CPU time of the whole process: other programs on the machine do not count."""

    name = "process CPU time"

    def measure(self, step: Step, iterations: int) -> tuple[float, float]:
        start_wall, start = time.perf_counter(), time.process_time()
        for _ in range(iterations):
            step()
        spent, wall = time.process_time() - start, time.perf_counter() - start_wall
        return spent * 1e3 / iterations, wall * 1e3 / iterations


class CudaClock(Clock):
    """CUDA events around all iterations, or around each one after the L2 cache was overwritten."""

    name = "CUDA events"

    def __init__(self, cold_l2: bool = False) -> None:
        self.flush: torch.Tensor | None = None
        if cold_l2:
            self.name = "CUDA events, cold L2"
            cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
            self.flush = torch.empty(2 * cache, dtype=torch.uint8, device="cuda")

    def measure(self, step: Step, iterations: int) -> tuple[float, float]:
        torch.cuda.synchronize()
        start_wall = time.perf_counter()
        if self.flush is None:
            pairs = [_event_pair(lambda: [step() for _ in range(iterations)])]
        else:
            pairs = []
            for _ in range(iterations):
                self.flush.zero_()
                pairs.append(_event_pair(step))
        torch.cuda.synchronize()
        wall = (time.perf_counter() - start_wall) * 1e3
        spent = sum(start.elapsed_time(end) for start, end in pairs)
        return spent / iterations, wall / iterations


def _event_pair(body: Callable[[], object]) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    body()
    end.record()
    return start, end


def make_clock(device: torch.device, threads: int, cold_l2: bool = False) -> Clock:
    """With several threads CPU time adds up over them, so the wall clock is what a user sees."""
    if device.type == "cuda":
        return CudaClock(cold_l2)
    return ProcessClock() if threads == 1 else Clock()


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """A fixed number of PyTorch threads inside the `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """The collector would run in whichever round happens to fill its quota."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def calibrate(step: Step, clock: Clock) -> int:
    """Iterations that fill a round, from the second of two warm-up calls."""
    clock.measure(step, 1)
    spent, wall = clock.measure(step, 1)
    return min(MAX_ITERATIONS, max(1, round(ROUND_MS / max(spent, wall, 1e-3))))


def alternate(
    steps: Mapping[Name, Step],
    clock: Clock,
    rounds: int,
    on_round: Callable[[int], None] = lambda _: None,
) -> dict[Name, Timing]:
    """Times every step once per round, in turn."""
    iterations = {name: calibrate(step, clock) for name, step in steps.items()}
    spent: dict[Name, list[tuple[float, float]]] = {name: [] for name in steps}
    with no_garbage_collection():
        for i_round in range(rounds):
            for name, step in steps.items():
                spent[name].append(clock.measure(step, iterations[name]))
            on_round(i_round)
    return {
        name: Timing(*zip(*pairs, strict=True), iterations[name]) for name, pairs in spent.items()
    }


def quantile(values: tuple[float, ...], q: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(q))


def ratio(base: Timing, other: Timing) -> float:
    """How many times faster `other` is than `base`: the median of the ratios within each round."""
    return quantile(tuple(a / b for a, b in zip(base.ms, other.ms, strict=True)), 0.5)
