"""Samples of the stem `equalization`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


def _sample(
    name: str, logits: Tensor, labels: Tensor, weights: Tensor, tags: str = "", **options: Any
) -> Sample:
    inputs = {
        "logits": logits,
        "labels": labels,
        "pos_weight": weights[0],
        "neg_weight": weights[1],
    }
    return Sample(
        f"equalization-{name}", F.equalization_loss, inputs, options, (), frozenset(tags.split())
    )


def samples() -> Iterator[Sample]:
    g = generator(51)

    def draw(rows: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.randn(rows, classes, generator=g, dtype=torch.float64) * 3
        labels = torch.randint(0, classes, (rows,), generator=g)
        weights = torch.rand(2, classes, generator=g, dtype=torch.float64) + 0.1
        return logits, labels, weights

    # One entry; rows and columns that are not multiples of a tile; beyond a chunk of rows, and of
    # those that a program or a float32 sum has.
    for rows, classes in ((1, 1), (9, 5), (3, 131), (150, 17)):
        tags = "small smooth" if rows * classes < 50 else "large" if rows > 100 else ""
        for reduction in ("mean", "sum"):
            name = f"{rows}x{classes}-{reduction}"
            yield _sample(name, *draw(rows, classes), tags, reduction=reduction)
    logits, labels, weights = draw(7, 3)
    special = torch.tensor([0.0, 100.0, -100.0, 1e4, -1e4, 30.0, -30.0], dtype=torch.float64)
    yield _sample("edges", logits + special[:, None], labels, weights, "edge")
    yield _sample("edges-none", logits[:0], labels[:0], weights, "edge")
