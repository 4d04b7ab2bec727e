"""Samples of the stem `matching_cost`, which has no gradient."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from ...reference.matching_cost import CLASS_COSTS, KINDS
from .box_loss import edge_pairs, pairs
from .sample import Sample, generator

FLOATING = ("logits", "boxes", "target_boxes")


def _cxcywh(boxes: Tensor) -> Tensor:
    return torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), -1)


def problem(g: torch.Generator, batch: int, n: int, m: int, classes: int) -> dict[str, Any]:
    """Inputs with boxes in units of the image and about a third of padding, anywhere."""
    boxes, target_boxes = pairs(batch * (n + m), g, image=1.0)
    boxes = torch.cat((boxes[:, :2], boxes[:, :2].maximum(boxes[:, 2:]) + 0.02), 1)  # proper ones
    return {
        "logits": 3 * torch.randn(batch, n, classes, generator=g, dtype=torch.float64),
        "boxes": boxes[: batch * n].reshape(batch, n, 4),
        "labels": torch.randint(0, classes, (batch, m), generator=g),
        "target_boxes": target_boxes[batch * n :].reshape(batch, m, 4),
        "mask": torch.rand(batch, m, generator=g) < 0.7,
    }


def _sample(name: str, inputs: dict[str, Any], tags: str, **options: Any) -> Sample:
    # A class cost of about 1 and distances of about 1 may cancel.
    return Sample(
        f"cost-{name}", F.matching_cost, inputs, options, constant=FLOATING,
        tags=frozenset(tags.split()), scale=1.0,
    )  # fmt: skip


def samples() -> Iterator[Sample]:
    g = generator(17)
    # Tiles of 8 and 16 columns, and on both sides of a vector.
    shapes = {"softmax": (2, 5, 4, 6), "nll": (1, 3, 9, 1), "sigmoid_focal": (3, 4, 17, 5)}
    for cls_cost in CLASS_COSTS:
        inputs = problem(g, *shapes[cls_cost])
        yield _sample(cls_cost, inputs, "small", cls_cost=cls_cost)
        yield _sample(f"{cls_cost}-no-mask", {**inputs, "mask": None}, "", cls_cost=cls_cost)
    inputs = problem(g, 2, 4, 5, 3)
    centred = {name: _cxcywh(inputs[name]) for name in ("boxes", "target_boxes")}
    centred = {**inputs, **centred, "labels": inputs["labels"].int()}
    for kind in KINDS:
        options = {"iou_kind": kind, "box_format": "cxcywh", "cls_cost": None}
        yield _sample(f"{kind}-cxcywh", centred, "small", **options)
        yield _sample(f"{kind}-xyxy", inputs, "", iou_kind=kind)
    focal = {"cls_cost": "sigmoid_focal", "cls_weight": 2.0}
    yield _sample("focal-gamma", inputs, "small", alpha=-1.0, gamma=1.5, **focal)
    yield _sample("focal-plain", inputs, "", alpha=0.6, gamma=0.0, **focal)
    yield _sample("background", inputs, "small", background_cost=0.4)
    yield _sample("background-8", problem(g, 2, 3, 8, 4), "", background_cost=-2.0)
    yield _sample("constant", inputs, "small", constant=2.0, background_cost=1.0)
    options = {"cls_cost": None, "iou_weight": 0.0, "l1_weight": 0.0, "constant": -0.5}
    yield _sample("constant-alone", {**inputs, "logits": None, "labels": None}, "", **options)
    yield _sample("l1", {**inputs, "logits": None, "labels": None}, "", cls_cost=None, iou_weight=0)
    yield _sample("iou", inputs, "", cls_weight=0, l1_weight=0.0)
    yield _sample("class", inputs, "", cls_weight=-1.5, l1_weight=0.0, iou_weight=0.0)

    # Beyond the rows of a task and the tile of a program, and the classes that one holds.
    large = problem(g, 2, 67, 133, 150)
    yield _sample("large", large, "large")
    yield _sample("large-focal", large, "large", background_cost=1.0, **focal)
    for shape in ((2, 3, 0, 4), (2, 0, 3, 4), (0, 3, 2, 4)):
        yield _sample(f"empty-{'x'.join(map(str, shape))}", problem(g, *shape), "edge")
    yield _sample("no-targets", problem(g, 2, 3, 0, 4), "edge", background_cost=2.0)
    none = {**inputs, "mask": torch.zeros_like(inputs["mask"])}
    yield _sample("all-padding", none, "edge", background_cost=2.0)
    # Numbers, and GIoU of inverted boxes, beyond the range of half precision.
    beyond = ("huge", "huge-alike", "largest", "tiny", "nan", "infinite", "inverted")
    chosen = [pair for name, pair in edge_pairs().items() if not name.startswith(beyond)]
    first, second = torch.tensor(chosen, dtype=torch.float64).transpose(0, 1)[:, None]
    edges = {"logits": None, "boxes": first, "labels": None, "target_boxes": second, "mask": None}
    # Without eps tiny boxes have areas that are 0 in some dtypes and not in others.
    plain = [pair for name, pair in edge_pairs().items() if not name.startswith((*beyond, "small"))]
    first, second = torch.tensor(plain, dtype=torch.float64).transpose(0, 1)[:, None]
    bare = {**edges, "boxes": first, "target_boxes": second}
    for kind in KINDS:
        yield _sample(f"edges-{kind}", edges, "edge", cls_cost=None, iou_kind=kind)
        yield _sample(f"edges-{kind}-eps0", bare, "edge", cls_cost=None, iou_kind=kind, eps=0.0)
        yield _sample(f"{kind}-eps", inputs, "", iou_kind=kind, eps=1e-3)
