"""The two pictures of the segmentation example."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # draws to files without pyplot's windows
from matplotlib.patches import Patch

from segmenter.data import CLASSES, Labelled
from segmenter.evaluate import TOLERANCE, Segmentation
from segmenter.inside import Curve, Hard

_COLORS = np.float32([[0.13, 0.15, 0.18], [0.20, 0.63, 0.79], [1.00, 0.82, 0.25]])  # of the classes
_WRONG = np.float32([1.0, 0.2, 0.25])
_KEPT = np.float32([1.0, 0.35, 0.1])
_EARLY, _LATE = "#b9bec4", ("#5b6470", "#2191ae", "#d19a00")


def predictions(
    path: Path, held_out: Labelled, found: Mapping[str, Mapping[str, Segmentation]]
) -> None:
    """The held-out part of the picture, its labels, and the answers: by the title of a group of
    losses, and by who computed them."""
    height, width = held_out.image.shape
    panels = 2 + sum(len(answers) for answers in found.values())
    size = (2.3 * panels, 2.3 * height / width + 1.2)
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(1, 1 + len(found), width_ratios=[2, *map(len, found.values())])
    axes = parts[0].subplots(1, 2)
    parts[0].suptitle("A part never trained on", fontsize=12)
    _gray(axes[0], held_out.image)
    axes[0].set_title("picture\n", fontsize=10)
    axes[1].imshow(_COLORS[held_out.classes], interpolation="nearest")
    axes[1].set_title("labels\n", fontsize=10)
    for part, (title, answers) in zip(parts[1:], found.items(), strict=True):
        part.suptitle(title, fontsize=12)
        for axis, (name, answer) in zip(
            part.subplots(1, len(answers)), answers.items(), strict=True
        ):
            pixels = _COLORS[answer.classes]
            pixels[answer.classes != held_out.classes] = _WRONG
            axis.imshow(pixels, interpolation="nearest")
            score = f"Dice {answer.dice:.3f}, border F1 {answer.boundary_f1:.3f}"
            axis.set_title(f"{name}\n{score}", fontsize=10)
    for part in parts:
        for axis in part.axes:
            axis.set_axis_off()
    handles = [Patch(color=color, label=name) for name, color in zip(CLASSES, _COLORS, strict=True)]
    handles.append(Patch(color=_WRONG, label="answer differs from the label"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=11)
    figure.suptitle(
        "Every pixel is background, the interior of a nucleus or its border (seed 0). Border F1: "
        f"right to within {TOLERANCE} pixels",
        fontsize=13,
    )
    figure.savefig(path, dpi=110)


def inside(
    path: Path,
    hard: Mapping[int, Hard],
    curves: Mapping[int, list[Curve]],
    thresh: float,
    least: float,
) -> None:
    """Above, the pixels OHEM keeps as training goes on: of a probability up to `thresh`, and at
    least the share `least`; below, what Lovász measures. Both by the number of steps."""
    figure = Figure(figsize=(14, 9), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(4, 5))
    _hard(upper.subplots(1, 2 + len(hard)), hard)
    upper.suptitle(
        "OHEM: cross entropy of the hard pixels only, whose true class has a probability of "
        f"{thresh:g} or less,\nor among the lowest {100 * least:g} % of the batch. As the network "
        "learns, what is left of them are the borders",
        fontsize=13,
    )
    _curves(lower.subplots(1, len(CLASSES), sharey=True), curves)
    lower.suptitle(
        "Lovász-Softmax, on the held-out part: call the pixels with an error above t wrong; J(t) "
        "is the Jaccard loss, 1 - IoU,\nof that answer. The loss of a class is the area under J",
        fontsize=13,
    )
    figure.savefig(path, dpi=110)


def _hard(axes: np.ndarray, hard: Mapping[int, Hard]) -> None:
    first = next(iter(hard.values()))
    _gray(axes[0], first.image)
    axes[0].set_title("a training crop", fontsize=11)
    axes[1].imshow(_COLORS[first.classes], interpolation="nearest")
    axes[1].set_title("its labels: interior (blue)\nand border (yellow)", fontsize=11)
    for axis, (steps, square) in zip(axes[2:], hard.items(), strict=True):
        gray = np.clip(square.image / 1.2, 0, 1)[..., None] * np.ones(3, dtype=np.float32)
        gray[square.kept] = 0.25 * gray[square.kept] + 0.75 * _KEPT
        axis.imshow(gray, interpolation="nearest")
        axis.set_title(
            f"kept (orange) after {_steps(steps)}:\n{100 * square.share:.0f} % of the batch",
            fontsize=11,
        )
    for axis in axes:
        axis.set_axis_off()


def _curves(axes: np.ndarray, curves: Mapping[int, list[Curve]]) -> None:
    (early, before), (late, after) = (list(curves.items())[i] for i in (0, -1))
    for axis, name, color, one, two in zip(axes, CLASSES, _LATE, before, after, strict=True):
        _staircase(axis, one, f"after {_steps(early)}: area {one.area:.3f}", _EARLY)
        _staircase(axis, two, f"after {_steps(late)}: area {two.area:.3f}", color)
        axis.plot([0.5], [two.at(0.5)], "o", color="black", markersize=5)
        axis.annotate(
            f"pixels wrong by more\nthan a half: 1 - IoU = {two.at(0.5):.3f}",
            (0.5, two.at(0.5)),
            xytext=(0.5, 0.62),
            fontsize=9.5,
            arrowprops={"arrowstyle": "-", "color": "black"},
        )
        axis.set_title(f"{name}: loss {two.loss:.3f}", fontsize=12)
        axis.set_xlabel("t: error of a pixel, |label - probability|")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper right", fontsize=10)
    axes[0].set_ylabel("J(t)")


def _staircase(axis: Axes, curve: Curve, label: str, color: str) -> None:
    axis.fill_between(curve.t[:-1], curve.height, step="post", color=color, alpha=0.35)
    axis.step(curve.t[:-1], curve.height, where="post", color=color, linewidth=1.5, label=label)


def _gray(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1.2, interpolation="nearest")


def _steps(count: int) -> str:
    return f"{count} step{'' if count == 1 else 's'}"
