"""The picture of what was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # draws to files without pyplot's windows
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from detector.data import Picture
from detector.evaluate import Detections
from detector.matched import Moments

_TRUE, _HIT, _WRONG, _MISSED = "#8ae234", "#34c6f4", "#ff5252", "#ffd23f"


def predictions(
    path: Path, train: Picture, held_out: Picture, found: Mapping[str, Detections]
) -> None:
    """The whole picture with its true boxes, then the held-out strip once per variant."""
    height, split = train.image.shape
    strip = held_out.image.shape[1]
    widths = [split + strip] + [strip] * len(found)
    panel = 7.5  # inches of height; every panel has the same scale, pixel for pixel
    size = (panel * sum(widths) / height + 0.6, panel + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches around each panel
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    _show(axes[0], np.concatenate([train.image, held_out.image], axis=1))
    _boxes(axes[0], train.boxes, _TRUE)
    _boxes(axes[0], held_out.boxes + np.float32([split, 0, split, 0]), _TRUE)
    axes[0].axvline(split - 0.5, color="white", linestyle="--", linewidth=1.5)
    for middle, text in ((split / 2, "labels, training part"), (split + strip / 2, "held out")):
        axes[0].text(middle, -6, text, ha="center", va="bottom", fontsize=11)
    for axis, (name, detections) in zip(axes[1:], found.items(), strict=True):
        _show(axis, held_out.image)
        _boxes(axis, held_out.boxes[~detections.found], _MISSED, "--")
        _boxes(axis, detections.boxes[detections.hits], _HIT)
        _boxes(axis, detections.boxes[~detections.hits], _WRONG)
        axis.set_title(f"{name}\nF1 {detections.f1:.3f}", fontsize=11)
    handles = [
        Line2D([], [], color=_TRUE, label="labelled nucleus"),
        Line2D([], [], color=_HIT, label="found (IoU at least 0.5)"),
        Line2D([], [], color=_WRONG, label="found, but no such nucleus"),
        Line2D([], [], color=_MISSED, linestyle="--", label="labelled, but missed"),
    ]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=11)
    legend.get_frame().set_facecolor("#404040")  # the colours are chosen for a dark picture
    for text in legend.get_texts():
        text.set_color("white")
    figure.suptitle(
        "Nuclei found on the part of the picture that was never trained on (seed 0)", fontsize=14
    )
    figure.savefig(path, dpi=120)


def matchings(path: Path, moments: Moments) -> None:
    """A row for each moment, a column for each variant: the image with its objects, and in their
    colours the predictions that are matched with them, the stronger the more."""
    rows, names = moments.recorded, list(moments.recorded[0].matchings)
    figure = Figure(figsize=(6.5 * len(names), 6.8 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    colors = [f"C{index}" for index in (0, 1, 2, 3, 4, 8, 9, 6)]  # none is grey
    for moment, line in zip(rows, axes, strict=True):
        for name, axis in zip(names, line, strict=True):
            _show(axis, moment.image.numpy())
            boxes, masses = moment.boxes[name].numpy(), moment.matchings[name].numpy()
            axis.set_title(f"{name}, after step {moment.step}", fontsize=11)
            axis.set(xlim=(-0.5, moment.image.shape[1] - 0.5))
            axis.set(ylim=(moment.image.shape[0] - 0.5, -0.5))
            for index, (target, mass) in enumerate(zip(moment.targets.numpy(), masses.T)):
                color = colors[index % len(colors)]
                _boxes(axis, target[None], color)
                middle = (target[:2] + target[2:]) / 2 - 0.5
                for row in np.flatnonzero(mass > 0.02):
                    x, y = (boxes[row, :2] + boxes[row, 2:]) / 2 - 0.5
                    share = min(float(mass[row]), 1.0)
                    axis.plot([x, middle[0]], [y, middle[1]], color=color, linewidth=3 * share)
                    _boxes(axis, boxes[row][None], color, ":", alpha=0.6 * share)
    figure.suptitle("Objects (solid) and the predictions matched with them (dotted)", fontsize=14)
    figure.savefig(path, dpi=110)


def _show(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1.2, interpolation="nearest")
    axis.set_axis_off()


def _boxes(axis: Axes, boxes: np.ndarray, color: str, style: str = "-", alpha: float = 1.0) -> None:
    for x1, y1, x2, y2 in boxes - 0.5:  # pixel centres lie on whole numbers
        axis.add_patch(
            Rectangle(
                (x1, y1),
                x2 - x1,
                y2 - y1,
                fill=False,
                color=color,
                linestyle=style,
                linewidth=1.4,
                alpha=alpha,
            )  # fmt: skip
        )
