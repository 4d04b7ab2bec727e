"""Samples of the stem `seesaw`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


def _sample(
    name: str, x: Tensor, target: Tensor, count: Tensor, tags: str = "", **more: Any
) -> Sample:
    tensors = ("weight", "avg_factor")
    inputs = {name: more.pop(name) for name in tensors if name in more}
    inputs = {"logits": x, "target": target, "class_count": count, **inputs}
    constant = ("class_count", "avg_factor")
    return Sample(f"seesaw-{name}", F.seesaw_loss, inputs, more, constant, frozenset(tags.split()))


def samples() -> Iterator[Sample]:
    g = generator(41)

    def draw(rows: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(rows, classes, generator=g, dtype=torch.float64) * 2
        target = torch.randint(0, classes + 1, (rows,), generator=g)
        return x, target, torch.rand(classes, generator=g, dtype=torch.float64).pow(-2).round() - 1

    # Finite differences do not hold: the scores have no gradient. Without compensation they do.
    x, t, n = draw(7, 5)
    for reduction in ("none", "mean", "sum"):
        yield _sample(f"7x5-{reduction}", x, t, n, "small smooth", q=0.0, reduction=reduction)
    weight = torch.rand(7, generator=g, dtype=torch.float64)
    factor = torch.tensor(4.5, dtype=torch.float64)
    yield _sample("weight", x, t.to(torch.int32), n.long(), "small", weight=weight)
    yield _sample("avg_factor", x, t, n, "small", p=0.0, weight=weight[:1], avg_factor=factor)
    yield _sample("far", x * 100, t, n * 1e6, "edge", eps=1e-6, reduction="none", avg_factor=2.0)
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -3e38, 3e38]).double()
    edges, t = x[:6].repeat(2, 1), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 5])
    edges[torch.arange(12), torch.arange(12) % 5] = special.repeat(2)
    yield _sample("edges", edges, t, n, "edge", reduction="none")
    yield _sample("background", edges, torch.full((12,), 5), n, "edge")
    x, t, n = draw(2, 513)
    yield _sample("2x513", x, t, n)
    # Beyond what a program holds, the largest logits last.
    x, t, n = draw(3, 4500)
    yield _sample("3x4500", x.sort(1).values, t, n, "large", reduction="none")
    yield _sample("0x3", *draw(0, 3), "edge")
