"""Samples of the stem `cross_entropy`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


def samples() -> Iterator[Sample]:
    yield from _values()
    yield from _edges()


def _sample(name: str, x: Tensor, t: Tensor, tags: str, **more: Any) -> Sample:
    tensors = ("class_weight", "weight", "avg_factor")
    inputs = {name: more.pop(name) for name in tensors if name in more}
    inputs = {"logits": x, "target": t, **inputs}
    return Sample(f"ce-{name}", F.cross_entropy, inputs, more, tags=frozenset(tags.split()))


def _values() -> Iterator[Sample]:
    g = generator(9)
    # (70, 81) are rows as detectors have them: more than a tile, and no full vectors
    for shape in ((1, 1), (5, 3), (70, 81), (2, 4, 3, 2), (3, 19, 37), (1, 2, 8201), (2, 150, 33)):
        x = torch.randn(shape, generator=g, dtype=torch.float64) * 2
        t = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=g)
        ignored = torch.where(torch.rand(t.shape, generator=g) < 0.2, -100, t)
        weights = {
            "class_weight": torch.rand(shape[1], generator=g, dtype=torch.float64) + 0.5,
            "weight": torch.rand(t.shape, generator=g, dtype=torch.float64),
        }
        tags = "small smooth" if x.numel() < 60 else "large"
        size = "x".join(map(str, shape))
        for reduction in ("none", "mean", "sum"):
            options: dict[str, Any] = {"reduction": reduction}
            yield _sample(f"{size}-{reduction}", x, t, tags, **options)
            options |= {"label_smoothing": 0.1, **weights}
            if reduction == "mean" and x.dim() == 2:
                options["avg_factor"] = 2.5 if len(x) == 5 else torch.tensor(9.5).double()
            yield _sample(f"weighted-{size}-{reduction}", x, ignored, tags, **options)
    yield _sample("weight-one", x, t, "large", weight=weights["weight"][:1, 0])
    yield _sample("weight-image", x, t, "large", weight=weights["weight"][:, :1])


def _edges() -> Iterator[Sample]:
    """Unusual logits at a pixel that counts and at one that does not."""
    values = (20.0, 100.0, -100.0, 1e4, -1e4, -torch.inf, torch.nan)
    x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64).repeat(4 * len(values), 1)
    for i, value in enumerate(values):
        x[4 * i : 4 * i + 4, 1] = value
    t = torch.tensor([0, 1, 2, -100]).repeat(len(values))
    for reduction in ("none", "mean"):
        yield _sample(f"edges-{reduction}", x, t, "edge", reduction=reduction)
    finite = x[: 4 * 5]
    options = {"reduction": "none", "label_smoothing": 0.2}
    yield _sample("edges-smoothed", finite, t[: len(finite)], "edge", **options)
    ignored = torch.full_like(t, -100)
    yield _sample("edges-all-ignored", x, ignored, "edge", reduction="mean")
    yield _sample("empty", x[:0], t[:0], "edge", reduction="mean")
