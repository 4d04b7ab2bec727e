"""Samples of the stem `bounded_iou_loss`; boxes are xyxy, and the target has no gradient."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .box_loss import COUNTS, edge_pairs, pairs
from .sample import Sample, generator

OPTIONS = {"kind": "bounded_iou", "eps": 1e-3}
CONSTANT = ("target", "avg_factor")


def _sample(
    name: str, pred: Tensor, target: Tensor, options: dict[str, Any], **rest: Any
) -> Sample:
    """`rest` may hold inputs (weight, avg_factor), and tags and the scale of the sample."""
    details = {key: rest.pop(key) for key in ("tags", "scale") if key in rest}
    inputs = {"pred": pred, "target": target, **rest}
    all_options = {**OPTIONS, **options}
    return Sample(f"bounded_iou-{name}", F.box_loss, inputs, all_options, CONSTANT, **details)


def samples() -> Iterator[Sample]:
    g = generator(3)
    smooth = frozenset({"small", "smooth"})
    for count in COUNTS:
        pred, target = pairs(count, g)
        tags = smooth if count < 50 else frozenset({"large"} if count > 512 else ())
        for reduction in ("none", "mean", "sum"):
            options = {"reduction": reduction, "beta": 0.3}
            yield _sample(f"{count}-{reduction}", pred, target, options, tags=tags)
    pred, target = (boxes.reshape(4, 5, 3, 4) for boxes in pairs(60, g))
    for shape in ((4, 5, 3, 4), (4, 5, 3, 1), (4,), (5, 1, 1)):
        weight = torch.rand(shape, generator=g, dtype=torch.float64)
        name = f"weight-{'x'.join(map(str, shape))}"
        options = {"reduction": "none" if len(shape) == 3 else "mean"}
        yield _sample(name, pred, target, options, weight=weight, tags=smooth)
    for label, factor in (("number", 4.5), ("tensor", torch.tensor(4.5, dtype=torch.float64))):
        yield _sample(f"avg_factor-{label}", pred, target, {}, weight=weight, avg_factor=factor)
    yield _sample("normalised", *(boxes / 100 for boxes in pairs(33, g)), {})
    for label, pair in edge_pairs().items():
        pred, target = (torch.tensor([box], dtype=torch.float64) for box in pair)
        tags = frozenset({"edge"})
        yield _sample(label, pred, target, {"reduction": "none"}, tags=tags, scale=1.0)
