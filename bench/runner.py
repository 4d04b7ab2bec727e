"""Runs a workload: inputs, correctness, memory, alternating rounds, records."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import fastloss
from bench import contenders, machine, memory, records, timing
from bench.console import Listener
from bench.contenders import COMPILED, EAGER, FASTLOSS, Contender
from bench.inputs import Inputs, Source
from bench.machine import Machine
from bench.records import Record
from bench.workload import Workload
from bench.workloads import WORKLOADS
from fastloss.testing import TOLERANCES

ROUNDS = 15
# With several threads fastloss is timed on one as well, in the same rounds.
_ONE_THREAD = "fastloss, one thread"

Builders = Mapping[str, Callable[[], Contender]]
Key = tuple[str, str]  # workload and contender


def units(workloads: Sequence[Workload], rounds: int, with_compile: bool) -> int:
    """How often `run_together` calls `Listener.advance`."""
    cpu = torch.device("cpu")
    return rounds + sum(len(contenders.builders(w, cpu, with_compile)) for w in workloads)


def run_workload(workload: str | Workload, **options: Any) -> list[Record]:
    """Every contender on one workload, one record each; the options are those of
    `run_together`."""
    return run_together([WORKLOADS[workload] if isinstance(workload, str) else workload], **options)


def run_together(
    workloads: Sequence[Workload],
    *,
    device: str = "cpu",
    size: str = "small",
    threads: int = 1,
    rounds: int = ROUNDS,
    with_compile: bool = True,
    cold_l2: bool = False,
    builders: Builders | None = None,
    on: Machine | None = None,
    listener: Listener | None = None,
) -> list[Record]:
    """Every contender on every one of the workloads, all in the same rounds, one record each.

    `builders` replaces the contenders. `on` stands for device and threads, and saves measuring the
    copy bandwidth again.
    """
    on = on or machine.inspect(device, threads)
    listener = listener or Listener()
    with timing.threads(on.threads):
        clock = timing.make_clock(on.device, on.threads, cold_l2)
        found: list[Record] = []
        steps: dict[Key, timing.Step] = {}
        for chosen in workloads:
            listener.status(f"{chosen.name}: inputs and float64 truth")
            inputs = chosen.make_inputs(Source(on.device), chosen.sizes[size])
            # Twice the size of the results, and so not to be kept while timing.
            expected = contenders.truth(chosen, inputs)
            blank = _blank(chosen, size, inputs, expected, on, clock, rounds)
            makers = builders or contenders.builders(chosen, on.device, with_compile)
            for name, build in makers.items():
                listener.status(f"{chosen.name}: {_doing(name)}")
                named = replace(blank, contender=name)
                if name == FASTLOSS:
                    own = chosen.own_tolerance or _digits(TOLERANCES[inputs.dtype].l2)
                    named = replace(named, tolerance=own)
                record, step = _admit(named, build, inputs, expected, on)
                found.append(record)
                if step is not None:
                    steps[chosen.name, name] = step
                    if name == FASTLOSS and on.threads > 1:
                        steps[chosen.name, _ONE_THREAD] = _on_one_thread(step)
                listener.advance()
        del expected
        listener.status(f"{rounds} rounds of {', '.join(map(' '.join, steps))}")
        timings = timing.alternate(steps, clock, rounds, lambda _: listener.advance())
    return [_timed(record, timings) for record in found]


def _on_one_thread(step: timing.Step) -> timing.Step:
    def alone() -> None:
        with timing.threads(1):
            step()

    return alone


def _doing(name: str) -> str:
    return "torch.compile (this may take a minute)" if name == COMPILED else f"checking {name}"


def _blank(
    workload: Workload,
    size: str,
    inputs: Inputs,
    expected: Sequence[Tensor],
    on: Machine,
    clock: timing.Clock,
    rounds: int,
) -> Record:
    written = sum(tensor.numel() for tensor in expected) * inputs.dtype.itemsize
    leaves = inputs.arguments[: inputs.differentiable]
    again = (workload.reads - 1) * sum(leaf.nbytes for leaf in leaves)
    return Record(
        suite=workload.suite,
        stem=workload.stem,
        workload=workload.name,
        contender="",
        source="",
        status=records.OK,
        size=size,
        shape=workload.sizes[size],
        dtype=str(inputs.dtype).removeprefix("torch."),
        threads=on.threads,
        device=on.name,
        driver=on.driver,
        clock=clock.name,
        rounds=rounds,
        commit=on.commit,
        fastloss=fastloss.__version__,
        torch=torch.__version__,
        triton=machine.version("triton"),
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        tolerance=workload.tolerance,
        floor_mb=(inputs.nbytes() + again + written) / 1e6,
        copy_gbps=_digits(on.copy_gbps),
    )


def _admit(
    blank: Record,
    build: Callable[[], Contender],
    inputs: Inputs,
    expected: Sequence[Tensor],
    on: Machine,
) -> tuple[Record, timing.Step | None]:
    """The contender's record without times, and the step to time if its numbers are right."""
    try:
        contender = build()
        worst = contenders.error(contender.function, inputs, expected)
        record = replace(
            blank, source=contender.source, error=_digits(worst) if math.isfinite(worst) else None
        )
        if not worst <= blank.tolerance:
            return replace(record, status=records.WRONG), None
        step = contenders.make_step(contender.function, inputs)
        peak = memory.peak_bytes(step, on.device)
    except Exception as reason:  # a compiler or a foreign kernel may raise anything
        return replace(blank, status=f"{records.FAILED}: {_brief(reason)}"), None
    return replace(record, peak_mb=_digits(peak / 1e6)), step


def _brief(reason: Exception) -> str:
    """The first line, without paths: records are published."""
    lines = str(reason).strip().splitlines()
    text = re.sub(r"(?:/[\w.+-]+){2,}", "...", lines[0]) if lines else ""
    return f"{type(reason).__name__}: {text[:160]}"


def _timed(record: Record, timings: Mapping[Key, timing.Timing]) -> Record:
    rivals = {name: t for (workload, name), t in timings.items() if workload == record.workload}
    if record.contender not in rivals:
        return record
    own = rivals[record.contender]
    median = own.median()
    values: dict[str, Any] = {
        "iterations": own.iterations,
        "median_ms": median,
        "p20_ms": own.quantile(0.2),
        "p80_ms": own.quantile(0.8),
        "wall_ms": timing.quantile(own.wall_ms, 0.5),
        "gbps": record.floor_mb / median,
        "percent_floor": 100 * record.floor_mb / median / record.copy_gbps,
    }
    if EAGER in rivals:
        values["ratio"] = timing.ratio(rivals[EAGER], own)
    if record.contender == FASTLOSS and _ONE_THREAD in rivals:
        values["scaling"] = timing.ratio(rivals[_ONE_THREAD], own)
    others = [name for name in rivals if name not in (FASTLOSS, _ONE_THREAD)]
    if record.contender == FASTLOSS and others:
        best = min(others, key=lambda name: rivals[name].median())
        values["ratio_best"] = timing.ratio(rivals[best], own)
        record = replace(record, best=best)
    return replace(record, **{name: _digits(value) for name, value in values.items()})


def _digits(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class Comparison:
    name: str
    eager_ms: float
    fastloss_ms: float
    ratio: float  # times faster than eager: the median of the ratios within each round
    eager_mb: float
    fastloss_mb: float


def quick_compare(
    names: list[str], *, device: str = "cpu", size: str = "small", threads: int = 1, rounds: int = 3
) -> list[Comparison]:
    """Eager against fastloss, without `torch.compile`: a few seconds per workload, for examples and
    notebooks."""
    on = machine.inspect(device, threads)
    rows = []
    for name in names:
        found = run_workload(name, size=size, rounds=rounds, with_compile=False, on=on)
        table = {record.contender: record for record in found}
        base, own = table[EAGER], table[FASTLOSS]
        for record in (base, own):
            if record.status != records.OK:
                raise RuntimeError(f"{name}, {record.contender}: {record.status}")
        rows.append(
            Comparison(name, base.median_ms, own.median_ms, own.ratio, base.peak_mb, own.peak_mb)
        )
    return rows
