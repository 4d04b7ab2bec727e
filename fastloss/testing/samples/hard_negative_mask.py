"""Samples of the stem `hard_negative_mask`: the losses that it chooses, which have a gradient."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator

CONSTANT = ("negative", "count")  # in the samples with masses both are floating


@functools.wraps(F.hard_negative_mask)
def hard_losses(loss: Tensor, negative: Tensor, count: Tensor) -> Tensor:
    """The losses of the hard negatives, 0 for the others."""
    return torch.where(F.hard_negative_mask(loss, negative, count), loss, 0)


def _sample(name: str, loss: Tensor, negative: Tensor, count: Tensor, tags: str) -> Sample:
    inputs = {"loss": loss, "negative": negative, "count": count}
    tagged = frozenset((*tags.split(), "chosen"))
    return Sample(name, hard_losses, inputs, constant=CONSTANT, tags=tagged)


def samples() -> Iterator[Sample]:
    g = generator(11)
    for shape in ((1, 1), (3, 7), (2, 1100)):
        loss = torch.rand(shape, generator=g, dtype=torch.float64)
        negative = torch.rand(shape, generator=g) < 0.7
        count = torch.randint(0, shape[1], shape[:1], generator=g)
        tags, size = "small" if loss.numel() < 30 else "large", "x".join(map(str, shape))
        yield _sample(f"hard-{size}", loss, negative, count, tags)
        ties = (loss * 4).round() - 1
        yield _sample(f"hard-ties-{size}", ties, negative, count.int(), tags)
        bounds = torch.tensor([-1, 0, 2**40, 1])[: shape[0]].repeat(2)[: shape[0]]
        yield _sample(f"hard-bounds-{size}", ties, negative, bounds, tags)
    yield from _masses(g)
    special = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.0, torch.nan, -1.0, 6e-8, -6e-8]
    loss = torch.tensor([special, special[::-1]] * 5, dtype=torch.float64)
    count = torch.arange(10)
    for name, negative in {"all": loss == loss, "some": loss.abs() != 1}.items():
        yield _sample(f"hard-edges-{name}", loss, negative | loss.isnan(), count, "edge")
    # Rows that many programs share, with many equal losses.
    loss = (torch.rand(2, 70_001, generator=g, dtype=torch.float64) * 100).round()
    negative, count = torch.rand(2, 70_001, generator=g) < 0.9, torch.tensor([9_999, 2**40])
    yield _sample("hard-long", loss, negative, count, "large apart")
    none = torch.zeros(3, 0, dtype=torch.float64)
    yield _sample("hard-empty", none, none > 0, torch.arange(3), "edge")
    yield _sample("hard-no-rows", none.t(), none.t() > 0, torch.arange(0), "edge")


def _masses(g: torch.Generator) -> Iterator[Sample]:
    """Multiples of 1/64, whose sums are exact and equal the budget in any order of the terms or in
    none; some are 0 or negative."""
    for shape in ((1, 1), (3, 7), (2, 1100)):
        loss = torch.rand(shape, generator=g, dtype=torch.float64)
        mass = torch.randint(-16, 65, shape, generator=g).double() / 64
        budget = (mass.clamp(min=0).sum(1) * torch.rand(shape[:1], generator=g).double() * 64) // 1
        tags, size = "small" if loss.numel() < 30 else "large", "x".join(map(str, shape))
        yield _sample(f"hard-mass-{size}", loss, mass, budget / 64, tags)
        ties, halves = (loss * 4).round() - 1, (mass * 2).round() / 2
        yield _sample(f"hard-mass-ties-{size}", ties, halves, (budget / 32).round() / 2, tags)
        bounds = torch.tensor([-1.0, 0.0, torch.inf, 0.5]).double()
        bounds = bounds[: shape[0]].repeat(2)[: shape[0]]
        yield _sample(f"hard-mass-bounds-{size}", ties, halves, bounds, tags)
    special = [torch.nan, 1.0, torch.inf, torch.nan, -torch.inf, 1.0, 0.0, -0.0]
    loss = torch.tensor([special] * 6, dtype=torch.float64)
    mass = torch.tensor([0.5, 0.0, 0.25, 0.5, 1.0, 0.5, -1.0, 0.75]).double().expand(6, -1)
    budget = torch.tensor([0.5, 1.0, 1.25, 1.74, 2.5, 0.25], dtype=torch.float64)
    yield _sample("hard-mass-edges", loss, mass, budget, "edge")
    none = torch.zeros(3, 0, dtype=torch.float64)
    yield _sample("hard-mass-empty", none, none, torch.ones(3).double(), "edge")
