"""Random calls of `iou_match`, and its rules once more: image by image, target by target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def integer_boxes(g: torch.Generator, *shape: int, image: int, side: int) -> Tensor:
    """(*shape, 4) with sides from 0 to `side`: many ties, and boxes without an area."""
    corner = torch.randint(0, image, (*shape, 2), generator=g)
    return torch.cat((corner, corner + torch.randint(0, side + 1, (*shape, 2), generator=g)), -1)


def real_boxes(g: torch.Generator, *shape: int, image: int, side: int) -> Tensor:
    """(*shape, 4), some of them inverted."""
    corner = torch.rand(*shape, 2, generator=g) * image
    return torch.cat((corner, corner + torch.rand(*shape, 2, generator=g) * side - 0.1), -1)


def case(seed: int) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Boxes (B, N, 4) or (N, 4), targets (B, M, 4), mask (B, M) and options of `iou_match`."""
    g = torch.Generator().manual_seed(seed)

    def draw(*values: Any) -> Any:
        return values[int(torch.randint(len(values), (), generator=g))]

    def upto(most: int) -> int:
        return int(torch.randint(most + 1, (), generator=g))

    images, count, targets = upto(3), upto(30), upto(8)
    if seed % 10 == 0:
        count = 800 + upto(1500)  # several chunks
    make = draw(integer_boxes, integer_boxes, real_boxes)
    image, side = draw((6, 4), (12, 8), (40, 16))
    shape = (count,) if draw(True, False) else (images, count)
    boxes = make(g, *shape, image=image, side=side)
    gts = make(g, images, targets, image=image, side=side)
    if seed % 7 == 0:
        gts = gts + 100  # no overlap
    mask = torch.rand(images, targets, generator=g) < draw(0.0, 0.5, 0.8, 1.0)
    dtype = draw(*DTYPES)
    positive = draw(0.5, 0.7, 1 / 3, 0.0)
    options = {
        "positive": positive,
        "negative": min(draw(0.4, 0.3, 0.0, -0.5), positive),
        "min_positive": draw(0.0, 0.0, 1 / 3, 0.5, -1.0),
        "low_quality": draw(True, True, False),
        "low_quality_index": draw("target", "box"),
        "eps": draw(1e-7, 1e-6, 0.5, 0.0),
    }
    return boxes.to(dtype), gts.to(dtype), mask, options


def iou_matrix(boxes: Tensor, targets: Tensor, eps: float) -> Tensor:
    """(N, M) with PyTorch's own operations, in float32 at least."""
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes, targets = boxes.float(), targets.float()
    x1, y1, x2, y2 = boxes[:, None].unbind(-1)
    u1, v1, u2, v2 = targets.unbind(-1)
    inter = (torch.min(x2, u2) - torch.max(x1, u1)).clamp(min=0)
    inter = inter * (torch.min(y2, v2) - torch.max(y1, v1)).clamp(min=0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inter
    return (inter / union.clamp(min=eps)).nan_to_num(0)  # 0 / 0 without eps


def by_matrix(
    boxes: Tensor, targets: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """What `iou_match` returns for finite boxes of ordinary size."""
    images, count = len(targets), boxes.shape[-2]
    index = torch.full((images, count), -1)
    iou = boxes.new_zeros(images, count)
    for image in range(images):
        own_boxes = boxes if boxes.dim() == 2 else boxes[image]
        kept = range(targets.shape[1])
        if mask is not None:
            kept = [j for j in kept if mask[image, j]]
        if not kept or not count:
            continue
        matrix = iou_matrix(own_boxes, targets[image, list(kept)], options["eps"])
        best, own = matrix.max(1)
        result = torch.full((count,), -2)
        result[best < options["negative"]] = -1
        numbers = torch.tensor(list(kept))[own]
        result[best >= options["positive"]] = numbers[best >= options["positive"]]
        for column, j in enumerate(kept if options["low_quality"] else ()):
            top = matrix[:, column].max()
            if top >= options["min_positive"]:
                equal = matrix[:, column] == top
                result[equal] = j if options["low_quality_index"] == "target" else numbers[equal]
        index[image], iou[image] = result, best.to(boxes.dtype)
    return index, iou
