"""What the example prints: where the data come from, which kernels ran, what the losses cost."""

from __future__ import annotations

from collections.abc import Mapping

import torch

import fastloss
from detector import show
from detector.data import Picture
from detector.measure import Run, largest_difference, loss_ms, step_ms

# The losses of this example under their names in the benchmark.
_WORKLOADS = ["sigmoid_focal.index", "aligned_giou", "elem_smooth_l1"]


def introduction(picture: tuple[Picture, Picture], batch: int, device: torch.device) -> None:
    train, held_out = picture
    print(
        "Fluorescence microscopy of nuclei, 2018 Data Science Bowl (Caicedo et al. 2019), from the "
        "stardist package (BSD-3-Clause)."
    )
    print(
        f"{len(train.boxes)} labelled nuclei to train on, {len(held_out.boxes)} held out; "
        f"batches of {batch} crops; {device.type}, {torch.get_num_threads()} CPU threads."
    )
    ops: dict[str, list[str]] = {}
    for op, where in fastloss.backends().items():
        ops.setdefault(where[device.type], []).append(op)
    for implementation, names in ops.items():
        which = "every op" if len(ops) == 1 else ", ".join(names)
        print(f"fastloss on {device.type}: {implementation} for {which}")


def training(runs: Mapping[str, list[Run]]) -> None:
    """What both variants reached, and what their losses cost."""
    columns = [_column(done) for done in runs.values()]
    rows = [list(row) for row in zip(_ROWS, *columns, strict=True)]
    plain, fused = runs.values()
    rows.append(
        ["largest difference of the loss curves", "", f"{largest_difference(plain, fused):.1e}"]
    )
    title = f"Training, {len(plain)} seeds of {len(plain[0].losses)} steps"
    show.table(title, ["", *runs], rows)


_ROWS = (
    "held-out F1@0.5, mean of the seeds",
    "held-out F1@0.5, each seed",
    "loss forward and backward, ms per step",
    "whole step, ms",
    "share of the loss in the step",
    "peak memory of the loss, MB",
)


def _column(done: list[Run]) -> tuple[str, ...]:
    f1 = [run.detections.f1 for run in done]
    loss, step = loss_ms(done), step_ms(done)
    return (
        f"{sum(f1) / len(f1):.3f}",
        " ".join(f"{value:.3f}" for value in f1),
        f"{loss:.2f}",
        f"{step:.1f}",
        f"{100 * loss / step:.1f} %",
        f"{max(run.loss_bytes for run in done) / 1e6:.2f}",
    )


def large_batch(device: torch.device) -> None:
    """The same losses from the benchmark, where there is more for them to do."""
    try:
        import bench

        found = bench.quick_compare(_WORKLOADS, device=device.type, size="small")
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
