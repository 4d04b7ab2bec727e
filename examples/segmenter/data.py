"""From the instance mask to three classes, and random squares of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import picture
from common.picture import Part, random_square

CLASSES = ("background", "interior", "border")
BACKGROUND, INTERIOR, BORDER = range(3)
SIDE = 64  # pixels per side of a training crop
_REACH = 2  # pixels; what is nearer to the end of its nucleus belongs to the border


class Labelled(NamedTuple):
    """A part of the picture with the class of every pixel."""

    image: np.ndarray  # (H, W) float32, about 0..1
    classes: np.ndarray  # (H, W) int64


def load(folder: Path) -> tuple[Labelled, Labelled]:
    """The part for training and the part held out."""
    train, held_out = (_labelled(part) for part in picture.load(folder))
    return train, held_out


def _labelled(part: Part) -> Labelled:
    return Labelled(part.image, class_map(part.instances))


def class_map(instances: np.ndarray) -> np.ndarray:
    """(H, W) instance ids -> (H, W) classes. Border: a pixel of a nucleus with background or
    another nucleus within two pixels; touching nuclei are apart by it."""
    around = np.pad(instances, _REACH, mode="edge")  # the picture's own edge is no border
    height, width = instances.shape
    same = np.ones(instances.shape, dtype=bool)
    for y, x in disc(_REACH):
        top, left = _REACH + y, _REACH + x
        same &= around[top : top + height, left : left + width] == instances
    return np.where(instances == 0, BACKGROUND, np.where(same, INTERIOR, BORDER))


def disc(radius: int) -> list[tuple[int, int]]:
    """All (y, x) not farther than the radius from (0, 0)."""
    span = range(-radius, radius + 1)
    return [(y, x) for y in span for x in span if y * y + x * x <= radius * radius]


def batches(
    part: Labelled, steps: int, batch: int, seed: int, device: torch.device
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images (B, 1, SIDE, SIDE) and classes (B, SIDE, SIDE) of all steps, cut beforehand."""
    random = np.random.default_rng(seed)
    return [_batch(part, batch, random, device) for _ in range(steps)]


def _batch(
    part: Labelled, batch: int, random: np.random.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    squares = [random_square(part, SIDE, random) for _ in range(batch)]
    images, classes = (torch.from_numpy(np.stack(layer)) for layer in zip(*squares, strict=True))
    return images[:, None].to(device), classes.to(device)
