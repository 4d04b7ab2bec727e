"""Samples of the stem `contrastive`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


def _sample(name: str, logits: Tensor, target: Tensor, tags: str = "", **more: Any) -> Sample:
    tensors = ("weight", "avg_factor")
    inputs = {name: more.pop(name) for name in tensors if name in more}
    inputs = {"logits": logits, "target": target, **inputs}
    constant = ("target", "avg_factor")
    return Sample(
        f"contrastive-{name}",
        F.multi_positive_cross_entropy,
        inputs,
        more,
        constant,
        frozenset(tags.split()),
    )


def samples() -> Iterator[Sample]:
    g = generator(31)

    def draw(*shape: int, positive: float = 0.3) -> tuple[Tensor, Tensor]:
        logits = torch.randn(shape, generator=g, dtype=torch.float64) * 3
        return logits, (torch.rand(shape, generator=g) < positive).long()

    # A row; more rows than columns; around a vector and a block of 512; beyond what a program holds
    for shape in ((1, 1), (7, 5), (3, 33), (2, 513), (3, 4500)):
        x, t = draw(*shape)
        tags = "small smooth" if x.numel() < 100 else "large" if x.numel() > 2000 else ""
        for reduction in ("none", "mean", "sum"):
            yield _sample(
                f"{'x'.join(map(str, shape))}-{reduction}", x, t, tags, reduction=reduction
            )
    # The largest terms in what a program reads last.
    x, t = draw(2, 4500)
    x = x.sort(1).values * torch.tensor([[1.0], [-1.0]])
    yield _sample("rising", x, t, "large", reduction="none")
    x, t = draw(6, 9)
    t = torch.where(torch.rand(6, 9, generator=g) < 0.3, 2, t)
    for others in (False, True):
        options = {"others_in_both": others, "reduction": "none"}
        yield _sample(f"others-{others}", x, t, "small smooth", **options)
        yield _sample(f"scores-{others}", x, t.double() / 2, "small smooth", **options)
    weight = torch.rand(6, generator=g, dtype=torch.float64)
    for name, w in (("row", weight), ("scalar", weight[0]), ("one", weight[:1])):
        yield _sample(f"weight-{name}", x, t == 1, "small smooth", weight=w)
    for name, factor in (("number", 4.5), ("tensor", torch.tensor(4.5, dtype=torch.float64))):
        yield _sample(f"avg_factor-{name}", x, t, weight=weight, avg_factor=factor)
    yield _sample("far", x * 1e4, t, "edge", reduction="none")
    yield _sample("alike", x / 4 + 60, t, "edge", reduction="none")
    yield _sample("one-kind", x, (torch.arange(6) % 3)[:, None].expand(6, 9), "edge")
    for others in (False, True):
        special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -3e38, 3e38])
        edges = x.repeat(6, 1)
        edges[torch.arange(36), torch.arange(36) % 9] = special.double().repeat_interleave(6)
        options = {"others_in_both": others, "reduction": "none"}
        yield _sample(f"edges-{others}", edges, t.repeat(6, 1), "edge", **options)
    for shape in ((0, 3), (3, 0)):
        x, t = draw(*shape)
        yield _sample(f"edges-{'x'.join(map(str, shape))}", x, t, "edge")
