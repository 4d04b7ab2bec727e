"""From the picture to training crops: boxes out of the instance mask, targets for every cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from common import picture
from common.picture import random_square
from torch.nn.utils.rnn import pad_sequence

STRIDE = 4  # pixels per cell of the output grid
CROP = 128  # pixels per side of a training crop
BACKGROUND = 1  # class ids: 0 is a nucleus, 1 (the number of classes) is background
_SMALLEST = 6  # pixels; a nucleus cut by the border to less than this on a side is not an object


class Picture(NamedTuple):
    """A part of the picture with its objects."""

    image: np.ndarray  # (H, W) float32, about 0..1
    instances: np.ndarray  # (H, W) int, 0 is background
    boxes: np.ndarray  # (M, 4) float32, xyxy in pixels


class Targets(NamedTuple):
    """What each cell of a batch should answer; N = images × rows × columns."""

    labels: torch.Tensor  # (N,) int64, 0 or BACKGROUND
    boxes: torch.Tensor  # (N, 4) xyxy in pixels; zero-free filler where weights is 0
    weights: torch.Tensor  # (N,) 1 on the cells of an object's centre, else 0
    count: torch.Tensor  # () number of object cells, at least 1


class Objects(NamedTuple):
    """The objects of the images of a batch, padded to the one with most of them."""

    labels: torch.Tensor  # (B, T, 1) one-hot, of the one class there is
    boxes: torch.Tensor  # (B, T, 4) xyxy in pixels
    mask: torch.Tensor  # (B, T) bool, False for padding


def load(folder: Path) -> tuple[Picture, Picture]:
    """The part for training and the part held out."""
    train, held_out = (Picture(*part, boxes_of(part.instances)) for part in picture.load(folder))
    return train, held_out


def boxes_of(instances: np.ndarray) -> np.ndarray:
    """(H, W) instance ids -> (M, 4) xyxy boxes in pixels, right and bottom edge exclusive."""
    boxes = []
    for index in np.unique(instances[instances > 0]):
        rows, columns = np.nonzero(instances == index)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        if box[2] - box[0] >= _SMALLEST and box[3] - box[1] >= _SMALLEST:
            boxes.append(box)
    return np.array(boxes, dtype=np.float32).reshape(-1, 4)


def batches(
    part: Picture,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    targets: Callable[[Sequence[np.ndarray]], NamedTuple],
) -> list[tuple[torch.Tensor, NamedTuple]]:
    """Cut all batches beforehand, so that training time is the network's and the losses' alone.
    `targets`, `of_cells` or `of_images`, makes those of a batch from its instances."""
    random = np.random.default_rng(seed)
    return [_batch(part, batch, random, device, targets) for _ in range(steps)]


def _batch(
    part: Picture,
    batch: int,
    random: np.random.Generator,
    device: torch.device,
    targets: Callable[[Sequence[np.ndarray]], NamedTuple],
) -> tuple[torch.Tensor, NamedTuple]:
    crops = [random_square(part[:2], CROP, random) for _ in range(batch)]
    images = torch.from_numpy(np.stack([image for image, _ in crops]))[:, None]  # (B, 1, H, W)
    found = targets([instances for _, instances in crops])
    return images.to(device), type(found)(*(tensor.to(device) for tensor in found))


def of_images(crops: Sequence[np.ndarray]) -> Objects:
    """The objects of each image."""
    boxes = [torch.from_numpy(boxes_of(instances)) for instances in crops]
    real = [torch.ones(len(found), dtype=torch.bool) for found in boxes]
    mask = pad_sequence(real, batch_first=True)  # (B, T)
    return Objects(torch.ones(*mask.shape, 1), pad_sequence(boxes, batch_first=True), mask)


def of_cells(crops: Sequence[np.ndarray]) -> Targets:
    """The answer of each cell."""
    cells = [_cell_targets(boxes_of(instances), instances.shape) for instances in crops]
    boxes = torch.from_numpy(np.concatenate([boxes for boxes, _ in cells]))  # (N, 4)
    inside = torch.from_numpy(np.concatenate([inside for _, inside in cells]))  # (N,) bool
    labels = torch.where(inside, 0, BACKGROUND)
    count = inside.sum().clamp(min=1).float()
    return Targets(labels, boxes, inside.float(), count)


def _cell_targets(boxes: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(M, 4) boxes -> per cell the box (N, 4) and whether the cell is in an object's centre (N,).

    The centre is the middle half of the box in each direction, and never less than one cell. Where
    two centres overlap, the cell belongs to the object whose middle is nearer.
    """
    y, x = (np.indices((shape[0] // STRIDE, shape[1] // STRIDE)).reshape(2, -1) + 0.5) * STRIDE
    if len(boxes) == 0:
        return np.tile(np.float32([0, 0, 1, 1]), (len(x), 1)), np.zeros(len(x), dtype=bool)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2  # (M, 2)
    reach = np.maximum((boxes[:, 2:] - boxes[:, :2]) / 4, STRIDE / 2)  # (M, 2)
    offset = np.abs(np.stack([x, y], axis=1)[:, None] - middle) / reach  # (N, M, 2)
    distance = offset.max(axis=2)  # (N, M), at most 1 inside the centre
    nearest = distance.argmin(axis=1)  # (N,)
    return boxes[nearest], distance.min(axis=1) <= 1
