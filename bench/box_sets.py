"""Two sets of boxes per image, as detectors compare them: candidates of three kinds and targets.

Coordinates are pixels of a 1344 x 800 image, not clipped to it. Most pairs are disjoint, as in
training: 96 % for SSD, 91 % for DETR, 99 % for RPN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bench.inputs import Inputs, Shape, Source

_WIDTH, _HEIGHT = 1344, 800
Candidates = Callable[[Source, int, int], Tensor]  # (images, N) -> (images, N, 4) xyxy


def make(candidates: Candidates, *, backward: bool) -> Callable[[Source, Shape], Inputs]:
    """Inputs of shape (images, N, M); with `backward` a dense gradient comes back from all pairs
    and gradients are taken for both sets."""

    def inputs(source: Source, shape: Shape) -> Inputs:
        images, rows, columns = shape
        targets = _scattered(source, images, columns, median=55.0, spread=0.8)
        arguments = (candidates(source, images, rows), targets)
        if not backward:
            return Inputs(arguments, {}, differentiable=0)
        return Inputs(arguments, {}, differentiable=2, incoming=source.normal(*shape))

    return inputs


def shared_anchors(source: Source, shape: Shape) -> Inputs:
    """Inputs of shape (images, N, M): the anchors of RPN, once for all images, and targets. Whole
    pixels, as torchvision's anchors: float32 and float64 see the same ties."""
    images, rows, columns = shape
    targets = _scattered(source, images, columns, median=55.0, spread=0.8).round()
    return Inputs((rpn_anchors(source, 1, rows)[0].round(), targets), {}, differentiable=0)


def ssd_predictions(source: Source, images: int, count: int) -> Tensor:
    """The default boxes of SSD300 (8732 on six levels), moved as by an early regression head."""
    grids, scales = (38, 19, 10, 5, 3, 1), (0.1, 0.2, 0.375, 0.55, 0.725, 0.9, 1.075)
    levels = []
    for grid, scale, next_scale in zip(grids, scales, scales[1:], strict=False):
        shapes = [(scale, 1.0), (math.sqrt(scale * next_scale), 1.0), (scale, 2.0), (scale, 0.5)]
        if grid in (19, 10, 5):
            shapes += [(scale, 3.0), (scale, 1 / 3)]
        levels.append((grid, grid, [(size * _HEIGHT, ratio) for size, ratio in shapes]))
    centre, size = _anchors(levels, count, source.device)
    centre = centre + source.normal(images, count, 2, std=0.1) * size
    return _xyxy(centre, size * source.normal(images, count, 2, std=0.2).exp_())


def detr_predictions(source: Source, images: int, count: int) -> Tensor:
    """Boxes of object queries: anywhere, of every size, and larger than most targets."""
    return _scattered(source, images, count, median=240.0, spread=0.6)


def rpn_anchors(source: Source, images: int, count: int) -> Tensor:
    """Three shapes in every cell of strides 4 to 64 (268,506), the same for all images. Of fewer,
    evenly spaced ones are kept, so that the levels keep their shares."""
    levels = [
        (_HEIGHT // stride, _WIDTH // stride, [(8.0 * stride, ratio) for ratio in (0.5, 1.0, 2.0)])
        for stride in (4, 8, 16, 32, 64)
    ]
    anchors = _xyxy(*_anchors(levels, count, source.device))
    # A copy per image, because mmdet's function takes equal batch dimensions alone.
    return anchors.expand(images, count, 4).contiguous()


def _anchors(
    levels: Iterable[tuple[int, int, list[tuple[float, float]]]], count: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Centres and sizes (count, 2) of evenly spaced ones of all anchors, which are given per level
    as rows, columns and (size, height / width) of each shape."""
    centres, sizes = [], []
    for rows, columns, shapes in levels:
        y = (torch.arange(rows, device=device) + 0.5) * (_HEIGHT / rows)
        x = (torch.arange(columns, device=device) + 0.5) * (_WIDTH / columns)
        cells = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        extents = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for size, ratio in shapes]
        extent = torch.tensor(extents, device=device)  # (shapes, 2)
        centres.append(cells.expand(-1, len(shapes), 2).reshape(-1, 2))
        sizes.append(extent.expand(len(cells), -1, 2).reshape(-1, 2))
    centre, size = torch.cat(centres), torch.cat(sizes)
    kept = torch.linspace(0, len(centre) - 1, count, device=device, dtype=torch.float64).long()
    return centre[kept], size[kept]


def _scattered(source: Source, images: int, count: int, *, median: float, spread: float) -> Tensor:
    """Centres anywhere in the image, log-normal widths and heights: (images, count, 4)."""
    image = torch.tensor([_WIDTH, _HEIGHT], device=source.device)
    centre = source.uniform(images, count, 2) * image
    size = source.normal(images, count, 2, mean=math.log(median), std=spread).exp_()
    return _xyxy(centre, size)


def _xyxy(centre: Tensor, size: Tensor) -> Tensor:
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)
