"""Samples of the stem `cross_entropy`, the unreduced loss, and of its reductions."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from ...ops import _arguments
from ...ops.cross_entropy import per_pixel
from .sample import Sample, generator


@functools.wraps(F.cross_entropy)
def focal(logits: Tensor, target: Tensor, *, gamma: float, threshold: float | None) -> Tensor:
    """The unreduced softmax focal loss, which compat modules use."""
    widen = _arguments.under_autocast(logits)
    return per_pixel(logits, target, None, None, 0.0, gamma, threshold, widen)


def samples() -> Iterator[Sample]:
    yield from _values()
    yield from _edges()


def _sample(
    name: str, x: Tensor, t: Tensor, tags: str, weight: Tensor | None = None, **options: Any
) -> Sample:
    inputs = {"logits": x, "target": t, "class_weight": weight}
    return Sample(name, F.cross_entropy, inputs, options, tags=frozenset(tags.split()))


def _values() -> Iterator[Sample]:
    g = generator(9)
    for shape in ((1, 1), (5, 3), (2, 4, 3, 2), (3, 19, 37), (1, 2, 8201), (2, 150, 33)):
        x = torch.randn(shape, generator=g, dtype=torch.float64) * 2
        t = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=g)
        ignored = torch.where(torch.rand(t.shape, generator=g) < 0.2, -100, t)
        weight = torch.rand(shape[1], generator=g, dtype=torch.float64) + 0.5
        tags = "small smooth" if x.numel() < 60 else "large"
        size = "x".join(map(str, shape))
        for reduction in ("none", "mean", "sum"):
            options: dict[str, Any] = {"reduction": reduction}
            yield _sample(f"ce-{size}-{reduction}", x, t, tags, **options)
            options["label_smoothing"] = 0.1
            yield _sample(f"ce-weighted-{size}-{reduction}", x, ignored, tags, weight, **options)
        if tags == "large" and len(t) == 1:
            continue
        for gamma, threshold in ((2.0, None), (1.5, 0.5), (1.0, None)):
            pixels, labels = (x, t) if x.dim() > 2 else (x[..., None], t[..., None])
            inputs = {"logits": pixels.flatten(2), "target": labels.flatten(1)}
            options = {"gamma": gamma, "threshold": threshold}
            name = f"ce-focal{gamma:g}-{threshold}-{size}"
            yield Sample(name, focal, inputs, options, tags=frozenset(tags.split()))


def _edges() -> Iterator[Sample]:
    """Unusual logits at a pixel that counts and at one that does not."""
    values = (20.0, 100.0, -100.0, 1e4, -1e4, -torch.inf, torch.nan)
    x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64).repeat(4 * len(values), 1)
    for i, value in enumerate(values):
        x[4 * i : 4 * i + 4, 1] = value
    t = torch.tensor([0, 1, 2, -100]).repeat(len(values))
    for reduction in ("none", "mean"):
        yield _sample(f"ce-edges-{reduction}", x, t, "edge", reduction=reduction)
    finite = x[: 4 * 5]
    options = {"reduction": "none", "label_smoothing": 0.2}
    yield _sample("ce-edges-smoothed", finite, t[: len(finite)], "edge", **options)
    ignored = torch.full_like(t, -100)
    yield _sample("ce-edges-all-ignored", x, ignored, "edge", reduction="mean")
    yield _sample("ce-empty", x[:0], t[:0], "edge", reduction="mean")
