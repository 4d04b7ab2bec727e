"""The picture of the loss curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # draws to files without pyplot's windows

from common.measure import Run, largest_difference

_COLORS = ("#f4a259", "#1b3a57")  # a light broad line below, a dark thin one above


def draw(path: Path, groups: Mapping[str, Mapping[str, list[Run]]]) -> None:
    """Loss per step of plain PyTorch and fastloss and how far apart they are; a column for each
    group of losses, by its title."""
    figure = Figure(figsize=(1 + 8 * len(groups), 6.5), layout="constrained")
    axes = figure.subplots(
        2, len(groups), sharex=True, sharey="row", squeeze=False, height_ratios=(2, 1)
    )
    for (title, runs), top, bottom in zip(groups.items(), *axes, strict=True):
        (first_name, first), (second_name, second) = runs.items()
        for seed, (one, two) in enumerate(zip(first, second, strict=True)):
            steps = np.arange(1, len(one.losses) + 1)
            label = {"label": first_name} if seed == 0 else {}
            top.plot(steps, one.curve(), color=_COLORS[0], linewidth=5, alpha=0.7, **label)
            label = {"label": second_name} if seed == 0 else {}
            top.plot(steps, two.curve(), color=_COLORS[1], linewidth=1.2, **label)
            gap = np.abs(np.subtract(one.curve(), two.curve()))
            # A logarithmic axis cannot show 0: losses equal to the last bit are drawn at 1e-8.
            bottom.plot(steps, np.maximum(gap, 1e-8), linewidth=1.2, label=f"seed {seed}")
        top.set_ylim(bottom=0)
        top.set_title(
            f"{title}: same seeds and batches,\n"
            f"largest difference {largest_difference(first, second):.1e}"
        )
        top.legend()
        bottom.set_yscale("log")
        bottom.set_xlabel("step")
        bottom.legend(ncols=len(first), fontsize=9)
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("difference")
    figure.savefig(path, dpi=120)
