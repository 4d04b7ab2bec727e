"""The labelled picture of the examples in two parts, and random squares of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from common.download import IMAGE, MASK, fetch

SOURCE = (
    "Fluorescence microscopy of nuclei, 2018 Data Science Bowl (Caicedo et al. 2019), from the "
    "stardist package (BSD-3-Clause)."
)


class Part(NamedTuple):
    """A part of the picture with its labels."""

    image: np.ndarray  # (H, W) float32, about 0..1
    instances: np.ndarray  # (H, W) int, 0 is background


def load(folder: Path) -> tuple[Part, Part]:
    """The left three quarters for training, the right quarter held out; never mixed."""
    fetch(folder)
    raw = tifffile.imread(folder / IMAGE).astype(np.float32)  # (H, W)
    instances = tifffile.imread(folder / MASK).astype(np.int64)  # (H, W)
    split = raw.shape[1] * 3 // 4
    low, high = np.percentile(raw[:, :split], (1.0, 99.0))
    # The square root brings the few very bright, dividing nuclei near to the others.
    image = np.sqrt(np.clip(raw - low, 0, None) / (high - low)).astype(np.float32)
    return Part(image[:, :split], instances[:, :split]), Part(
        image[:, split:], instances[:, split:]
    )


def random_square(
    layers: Sequence[np.ndarray], side: int, random: np.random.Generator
) -> list[np.ndarray]:
    """The same square of every (H, W) layer, turned by a multiple of 90 degrees and perhaps
    mirrored."""
    height, width = layers[0].shape
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    window = (slice(top, top + side), slice(left, left + side))
    turns, mirror = random.integers(4), random.integers(2)

    def turned(pixels: np.ndarray) -> np.ndarray:
        pixels = np.rot90(pixels[window], turns)
        return np.ascontiguousarray(pixels[:, ::-1] if mirror else pixels)

    return [turned(layer) for layer in layers]
