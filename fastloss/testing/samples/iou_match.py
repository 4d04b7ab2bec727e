"""Samples of the stem `iou_match`; boxes are xyxy.

Coordinates are integers that every dtype holds, and sides at most 16: IoUs are ratios of small
integers, which are equal in every precision or in none.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .box_loss import edge_pairs
from .sample import Sample, generator

OPTIONS = {
    "": {},
    "box": {"low_quality_index": "box"},
    "strict": {"low_quality": False, "positive": 0.7, "negative": 0.3},
    "least": {"min_positive": 0.25, "positive": 0.6, "eps": 1e-6},
}


@functools.wraps(F.iou_match)
def matched(boxes: Tensor, target_boxes: Tensor, mask: Tensor | None = None, **options) -> Tensor:
    """(2, B, N): index and IoU."""
    index, iou = F.iou_match(boxes, target_boxes, mask, **options)
    return torch.stack((index.to(iou.dtype), iou))


def integer_boxes(*shape: int, g: torch.Generator, image: int) -> Tensor:
    """(*shape, 4) float64 with sides from 0 to 16."""
    corner = torch.randint(0, image, (*shape, 2), generator=g)
    return torch.cat((corner, corner + torch.randint(0, 17, (*shape, 2), generator=g)), -1).double()


def anchors(count: int) -> Tensor:
    """(count, 4) in raster order: two shapes in each cell of a grid with 28 columns."""
    number = torch.arange(count)
    corner = torch.stack((number // 2 % 28, number // 56), -1) * 8.0
    size = torch.tensor([[16.0, 8.0], [12.0, 12.0]])[number % 2]
    return torch.cat((corner, corner + size), -1).double()


def _sample(
    name: str,
    boxes: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
    tags: str,
) -> Sample:
    inputs = {"boxes": boxes, "target_boxes": targets}
    if mask is not None:
        inputs["mask"] = mask
    constant = ("boxes", "target_boxes")
    return Sample(f"match-{name}", matched, inputs, options, constant, frozenset(tags.split()))


def samples() -> Iterator[Sample]:
    g = generator(12)
    for option, options in OPTIONS.items():
        boxes, targets = integer_boxes(2, 9, g=g, image=24), integer_boxes(2, 5, g=g, image=24)
        mask = torch.rand(2, 5, generator=g) < 0.6
        yield _sample(f"{option}-9x5", boxes, targets, None, options, "small")
        yield _sample(f"{option}-masked", boxes, targets, mask, options, "small")
        yield _sample(f"{option}-shared", boxes[0], targets, mask, options, "small")
        # Several chunks and tiles; targets in a part of the image, so that most tiles have none.
        targets = integer_boxes(2, 7, g=g, image=60)
        mask = torch.rand(2, 7, generator=g) < 0.8
        yield _sample(f"{option}-raster", anchors(1100), targets, mask, options, "large")
        if option != "strict":  # many boxes with equal IoUs for the last chunk too
            boxes = integer_boxes(2, 1030, g=g, image=200)
            yield _sample(f"{option}-1030x7", boxes, targets * 3, mask, options, "large")
    yield from _edges()


def _edges() -> Iterator[Sample]:
    cases = edge_pairs()
    for option, options in OPTIONS.items():
        # Areas of the tiny boxes have no full precision, or are 0, in some dtypes.
        pairs = [pair for name, pair in cases.items() if name != "tiny"]
        boxes, targets = torch.tensor(pairs, dtype=torch.float64).unbind(1)
        mask = torch.arange(len(pairs)) % 5 != 2
        yield _sample(f"{option}-edges", boxes, targets[None], None, options, "edge")
        yield _sample(f"{option}-edges-masked", boxes, targets[None], mask[None], options, "edge")
        none = {**options, "eps": 0.0}
        yield _sample(f"{option}-edges-eps0", targets[None], boxes[None], None, none, "edge")
    boxes = integer_boxes(2, 6, g=generator(13), image=20)
    no_mask = torch.zeros(2, 6, dtype=torch.bool)
    yield _sample("all-masked", boxes, boxes, no_mask, {}, "edge")
    yield _sample("no-targets", boxes, boxes[:, :0], None, {}, "edge")
    yield _sample("no-boxes", boxes[0, :0], boxes, None, {}, "edge")
    yield _sample("no-images", boxes[0], boxes[:0], None, {}, "edge")
    yield _sample("apart", boxes, boxes + 100, None, {}, "edge")  # the last target takes all boxes
