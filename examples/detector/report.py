"""What the example prints: where the data come from, which kernels ran, what the losses cost."""

from __future__ import annotations

from collections.abc import Mapping

import torch

import fastloss
from detector import show
from detector.data import Picture
from detector.measure import Run, largest_difference, loss_ms, step_ms

# The losses of this example as the benchmark knows them, at a million boxes and 100,000 x 80 scores.
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
        print(f"fastloss runs on {device.type} by {implementation}: {', '.join(names)}")


def training(runs: Mapping[str, list[Run]]) -> None:
    """The table of both variants, and the largest difference between their loss curves."""
    rows = []
    for name, done in runs.items():
        f1 = [run.detections.f1 for run in done]
        loss, step = loss_ms(done), step_ms(done)
        rows.append(
            (
                name,
                f"{sum(f1) / len(f1):.3f}",
                " ".join(f"{value:.3f}" for value in f1),
                f"{loss:.2f}",
                f"{step:.1f}",
                f"{100 * loss / step:.1f} %",
                f"{max(run.loss_bytes for run in done) / 1e6:.2f}",
            )
        )
    header = ("losses", "held-out F1@0.5", "each seed", "loss ms/step", "step ms", "share of step")
    show.table("Training", (*header, "peak loss MB"), rows)
    plain, fused = runs.values()
    print(f"Largest difference between the two loss curves: {largest_difference(plain, fused):.1e}")


def large_batch(device: torch.device) -> None:
    """The same losses from the benchmark, where there is more for them to do."""
    try:
        import bench

        found = bench.quick_compare(_WORKLOADS, device=device.type)
    except (ImportError, RuntimeError) as reason:
        print(f"Large-batch table left out, the benchmark did not run: {reason}")
        return
    rows = [
        (
            row.name,
            f"{row.eager_ms:.2f}",
            f"{row.fastloss_ms:.2f}",
            f"{row.ratio:.1f}x",
            f"{row.eager_mb:.0f}",
            f"{row.fastloss_mb:.0f}",
        )
        for row in found
    ]
    header = ("loss", "plain PyTorch ms", "fastloss ms", "faster", "plain PyTorch MB", "fastloss MB")
    show.table("The same losses on large batches, forward and backward", header, rows)
