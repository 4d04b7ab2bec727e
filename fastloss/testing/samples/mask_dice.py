"""Samples of the stem `mask_dice`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


def _sample(name: str, x: Tensor, t: Tensor, tags: str = "", **more: Any) -> Sample:
    tensors = ("weight", "avg_factor")
    inputs = {name: more.pop(name) for name in tensors if name in more}
    inputs = {"logits": x, "target": t, **inputs}
    tagged = frozenset(tags.split())
    # 1 less a number near it.
    return Sample(f"mask_dice-{name}", F.mask_dice_loss, inputs, more, ("avg_factor",), tagged, 1.0)


def samples() -> Iterator[Sample]:
    g = generator(42)

    def draw(*shape: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(shape, generator=g, dtype=torch.float64) * 2
        return x, torch.rand(shape, generator=g, dtype=torch.float64)

    x, t = draw(5, 3, 4)
    wild = x.clone()
    for i, value in enumerate((100.0, -100.0, -torch.inf, torch.inf)):
        wild[i] = value
    wild[4, 0, 0] = torch.nan
    for squared in (False, True):
        options = {"squared": squared, "reduction": "none"}
        yield _sample(f"soft-{squared}", x, t, "small smooth", **options)
        yield _sample(f"edges-{squared}", wild, t.round(), "edge", **options)
        options = {"squared": squared, "activated": True}
        yield _sample(f"activated-{squared}", x.sigmoid(), t > 0.5, "small smooth", **options)
    weight = torch.rand(5, generator=g, dtype=torch.float64)
    factor = torch.tensor(4.5, dtype=torch.float64)
    options = {"weight": weight[:1], "avg_factor": factor, "eps": 0.5}
    yield _sample("weight", x[0], (t[0] > 0.5).byte(), "small", **options)
    yield _sample("sum", x.mT, t.mT, weight=weight, reduction="sum")
    yield _sample("large", *draw(2, 8201), "large", reduction="none")
    for shape in ((0, 4), (2, 0)):
        yield _sample(f"edges-{'x'.join(map(str, shape))}", *draw(*shape), "edge")
