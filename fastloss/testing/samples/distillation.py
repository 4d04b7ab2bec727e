"""Samples of the stem `distillation`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


def _sample(name: str, logits: Tensor, teacher: Tensor, tags: str = "", **more: Any) -> Sample:
    inputs = {key: more.pop(key) for key in ("weight", "avg_factor") if key in more}
    return Sample(
        f"distillation-{name}",
        F.distillation_loss,
        {"logits": logits, "teacher_logits": teacher, **inputs},
        more,
        ("teacher_logits", "avg_factor"),
        frozenset(tags.split()),
    )


def samples() -> Iterator[Sample]:
    g = generator(42)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64) * 3

    # One class; more than a tile of rows; more columns than are summed at once, or held.
    for shape, tags, temperature, reduction in (
        ((2, 1), "edge", 10.0, "sum"),
        ((7, 5), "small smooth", 10.0, "none"),
        ((131, 17), "large", 10.0, "mean"),
        ((3, 2100), "large", 2.5, "none"),
    ):
        options = {"temperature": temperature, "reduction": reduction}
        yield _sample(f"{'x'.join(map(str, shape))}", draw(*shape), draw(*shape), tags, **options)
    x, y = draw(6, 5), draw(6, 5)
    weight = torch.rand(6, generator=g, dtype=torch.float64)
    options = {"reduction": "mean", "temperature": 1.0}
    yield _sample("weight", x, y, "small smooth", weight=weight, avg_factor=4.5, **options)
    factor = torch.tensor(4.5, dtype=torch.float64)
    yield _sample(
        "weight-one", x, y, "small smooth", weight=weight[:1], avg_factor=factor, **options
    )
    # Nearly alike: the terms would cancel. Far apart: a few would be infinite.
    yield _sample("alike", x + 40, x + 40 + y / 8, "edge")
    yield _sample("far", x * 100, y * 100, "edge", temperature=0.5)
    # Classes that the teacher, the student, or both exclude; a row without a class; no numbers.
    special = torch.tensor([-torch.inf, torch.inf, torch.nan, -3e4], dtype=torch.float64)
    x, y = draw(14, 5), draw(14, 5)
    x[0:4, 1], y[4:8, 2] = special, special
    x[8:10, 3], y[9:11, 3], y[11, 1:], y[12], x[13] = (-torch.inf,) * 5
    yield _sample("edges", x, y, "edge")
    yield _sample("empty", x[:0], y[:0], "edge", reduction="mean")
