"""Samples of the stem `gradient_harmonized`.

The bin of an element must be the same in every precision, also where inputs are rounded to half:
lengths that are near an edge are made invalid. Finite differences hold inside of the bins.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from ...reference.gradient_harmonized import dense_target, length
from .sample import Sample, generator

BINS = 6
INSIDE = 0.06  # of a bin's width


def inside_bins(pred: Tensor, target: Tensor, kind: str, mu: float, bins: int) -> Tensor:
    """Which elements have no length near the edge of a bin, (*)."""
    place = length(pred, dense_target(pred, target), kind, mu)[0] * bins % 1
    return (place - 0.5).abs() < 0.5 - INSIDE


def _samples(kind: str, g: torch.Generator) -> Iterator[Sample]:
    function = F.ghm_classification_loss if kind == "classification" else F.ghm_regression_loss
    first, mu = ("logits", 0.0) if kind == "classification" else ("pred", 0.5)

    def sample(name: str, x: Tensor, t: Tensor, w: Tensor, tags: str, **options: Any) -> Sample:
        bins = options.setdefault("bins", BINS)
        if mu:
            options["mu"] = mu
        w = torch.where(inside_bins(x, t, kind, mu, bins), w, 0)
        inputs = {first: x, "target": t, "weight": w}
        name = f"gradient-harmonized-{kind}-{name}"
        # A loss of small elements is exact beside the largest of its bin.
        return Sample(name, function, inputs, options, ("weight",), frozenset(tags.split()), 0.1)

    def draw(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(shape, generator=g, dtype=torch.float64) * 2
        t = torch.rand(shape, generator=g, dtype=torch.float64) * 0.8 + 0.1
        return x, t, torch.randint(-1, 5, shape, generator=g).double()

    for shape in ((1, 1), (7, 5), (6, 790)):
        x, t, w = draw(*shape)
        w = w if x.numel() > 1 else w.abs() + 1
        tags = "large" if x.numel() > 100 else "small smooth"
        for reduction in ("mean", "sum", "none"):
            name = f"{'x'.join(map(str, shape))}-{reduction}"
            yield sample(name, x, t, w, tags, reduction=reduction)
    x, t, w = draw(5, 6)
    yield sample("many-bins", x, t, w[:, :1].expand(5, 6), "small", bins=40)
    yield sample("invalid", x, t, -w.abs(), "edge")
    yield sample("edges-empty", x[:0], t[:0], w[:0], "edge")
    if kind == "classification":
        index = torch.tensor([5, 0, -1, 2, 6])
        for reduction in ("none", "mean"):
            name, row = f"index-{reduction}", torch.tensor([[2.0], [1], [1], [0], [1]]).double()
            yield sample(name, x, index, row.expand(5, 6), "small smooth", reduction=reduction)
        special = torch.tensor([[0.0, 100.0, -100.0, 1e4, -1e4, 30.0]], dtype=torch.float64)
        yield sample("edges", special, (special > 50).double(), special**0, "edge", bins=3)


def samples() -> Iterator[Sample]:
    g = generator(52)
    yield from _samples("classification", g)
    yield from _samples("regression", g)
