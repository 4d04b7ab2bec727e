"""Samples of the stem `distribution_focal`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


def _sample(name: str, logits: Tensor, target: Tensor, tags: str = "", **more: Any) -> Sample:
    inputs = {key: more.pop(key) for key in ("weight", "avg_factor") if key in more}
    return Sample(
        f"distribution_focal-{name}",
        F.distribution_focal_loss,
        {"logits": logits, "target": target, **inputs},
        more,
        ("avg_factor",),
        frozenset(tags.split()),
    )


def samples() -> Iterator[Sample]:
    g = generator(41)

    def draw(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        logits = torch.randn(rows, columns, generator=g, dtype=torch.float64) * 3
        # Away from the integers, where the gradient of the target jumps, in every dtype.
        parts = torch.randint(1, 8, (rows,), generator=g, dtype=torch.float64) / 8
        return logits, torch.randint(0, columns - 1, (rows,), generator=g) + parts

    # Fewer integers than two and more than a tile of rows; wider than what a program holds.
    for shape, tags, reduction in (
        ((1, 2), "small smooth", "sum"),
        ((7, 5), "small smooth", "none"),
        ((131, 17), "large", "mean"),
        ((3, 2100), "large", "none"),
    ):
        yield _sample(f"{'x'.join(map(str, shape))}", *draw(*shape), tags, reduction=reduction)
    x, t = draw(6, 5)
    weight = torch.rand(6, generator=g, dtype=torch.float64)
    options = {"reduction": "mean"}
    yield _sample("weight", x, t, "small smooth", weight=weight, avg_factor=4.5, **options)
    factor = torch.tensor(4.5, dtype=torch.float64)
    yield _sample(
        "weight-one", x, t, "small smooth", weight=weight[:1], avg_factor=factor, **options
    )
    # On integers, just below n, and near 0; logits that are large, alike, or not finite.
    t = torch.tensor([0.0, 2.0, 3.0, 3.984375, 1 / 256, 1.5], dtype=torch.float64)
    yield _sample("ends", x, t, "edge", reduction="none")
    yield _sample("far", x * 1e3 + 1e4, t, "edge", reduction="none")
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e4, -3e4, 0.0], dtype=torch.float64)
    edges = torch.cat((x.index_fill(1, torch.tensor(4), 0), x))
    edges[:6, 0] = special
    edges[6:, 1] = special
    yield _sample("edges", edges, torch.full((12,), 2.25).double(), "edge", reduction="none")
    yield _sample("empty", x[:0], t[:0], "edge", reduction="mean")
