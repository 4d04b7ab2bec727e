"""What the examples print: which kernels ran, what was reached, what the losses cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

import fastloss
from common import show
from common.measure import Run, largest_difference, loss_ms, step_ms


def kernels(device: torch.device) -> None:
    """Which implementation of fastloss runs on the device."""
    ops: dict[str, list[str]] = {}
    for op, where in fastloss.backends().items():
        ops.setdefault(where[device.type], []).append(op)
    for implementation, names in ops.items():
        which = "every op" if len(ops) == 1 else ", ".join(names)
        print(f"fastloss on {device.type}: {implementation} for {which}")


def training(
    title: str, runs: Mapping[str, list[Run]], scores: Mapping[str, Callable[[Run], float]]
) -> None:
    """What plain PyTorch and fastloss reached, by the named scores, and what their losses cost."""
    plain, fused = runs.values()
    names = [f"{name}, {of}" for name in scores for of in ("mean of the seeds", "each seed")]
    columns = [_column(done, scores) for done in runs.values()]
    rows = [list(row) for row in zip([*names, *_COSTS], *columns, strict=True)]
    rows.append(
        ["largest difference of the loss curves", "", f"{largest_difference(plain, fused):.1e}"]
    )
    show.table(f"{title}, {_count(plain)}", ["", *runs], rows)


_COSTS = (
    "loss forward and backward, ms per step",
    "whole step, ms",
    "share of the loss in the step",
    "peak memory of the loss, MB",
)


def _count(done: list[Run]) -> str:
    return f"{len(done)} {'seed' if len(done) == 1 else 'seeds'} of {len(done[0].losses)} steps"


def _column(done: list[Run], scores: Mapping[str, Callable[[Run], float]]) -> list[str]:
    column = []
    for score in scores.values():
        values = [score(run) for run in done]
        column += [f"{sum(values) / len(values):.3f}", " ".join(f"{v:.3f}" for v in values)]
    loss, step = loss_ms(done), step_ms(done)
    memory = max(run.loss_bytes for run in done) / 1e6
    return [*column, f"{loss:.2f}", f"{step:.1f}", f"{100 * loss / step:.1f} %", f"{memory:.2f}"]


def large_batch(workloads: Sequence[str], device: torch.device) -> None:
    """The losses from the benchmark, where there is more for them to do."""
    try:
        import bench

        found = bench.quick_compare(list(workloads), device=device.type, size="small")
    except (ImportError, RuntimeError) as reason:
        print(f"Large-batch table left out, the benchmark did not run: {reason}")
        return
    rows = [
        (
            f"{row.name}, {' x '.join(f'{n:,}' for n in bench.WORKLOADS[row.name].sizes['small'])}",
            f"{row.eager_ms:.1f}",
            f"{row.fastloss_ms:.1f}",
            f"{row.ratio:.1f}x",
            f"{row.eager_mb:.0f}",
            f"{row.fastloss_mb:.0f}",
        )
        for row in found
    ]
    header = ("", "plain ms", "fastloss ms", "faster", "plain MB", "fastloss MB")
    show.table("The same losses at large-batch size, forward and backward", header, rows)
