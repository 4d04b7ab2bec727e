"""Samples of the stem `embedding_distance`. Finite differences do not hold at the choice of the
negatives; samples for them have predictions far from each other and from the ends of [0, 1]."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


def _sample(name: str, pred: Tensor, target: Tensor, tags: str = "", **more: Any) -> Sample:
    tensors = ("weight", "avg_factor")
    inputs = {name: more.pop(name) for name in tensors if name in more}
    return Sample(
        f"embedding-{name}",
        F.embedding_distance,
        {"pred": pred, "target": target, **inputs},
        more,
        ("target", "avg_factor"),
        frozenset(tags.split()),
    )


def samples() -> Iterator[Sample]:
    g = generator(41)

    def draw(*shape: int, positive: float = 0.2) -> tuple[Tensor, Tensor]:
        """Predictions are distinct multiples of 1 / n, also in half precision where n is small."""
        n = torch.Size(shape).numel()
        pred = (torch.randperm(n, generator=g) + 0.25).double() / max(n, 1) * 1.5 - 0.25
        target = torch.rand(shape, generator=g) < positive
        return pred.reshape(shape), target.double()

    # 1 element; around a block of 512; several dims; several Triton programs
    for shape in ((1,), (3, 7), (513,), (2, 3, 11), (3, 1100)):
        pred, target = draw(*shape)
        tags = "small smooth" if pred.numel() < 50 else "large" if pred.numel() > 2000 else ""
        for reduction in ("none", "mean", "sum"):
            name = f"{'x'.join(map(str, shape))}-{reduction}"
            yield _sample(name, pred, target, tags, reduction=reduction)
    pred, target = draw(5, 9)
    options = {
        "all": {"neg_pos_ub": -1.0},
        "few": {"neg_pos_ub": 0.4},
        "margins": {"pos_margin": 0.2, "neg_margin": 0.1},
        "no-margins": {"pos_margin": -1.0, "neg_margin": 0.0},
    }
    for name, option in options.items():
        yield _sample(name, pred, target, "small smooth", **option)
    # As many random ones as there are: all.
    yield _sample("random-all", pred, target, neg_pos_ub=1e9, hard_mining=False)
    other = torch.where(torch.rand(5, 9, generator=g) < 0.2, 0.5, target)
    yield _sample("others", pred, other, "small smooth")
    yield _sample("bool", pred, target == 1, "small")
    # Weights keep their sign under the steps of finite differences, and far from 0 under rounding.
    weight = torch.rand(5, 9, generator=g, dtype=torch.float64) + 0.1
    signs = torch.randint(-1, 3, (5, 9), generator=g).sign().double()
    for name, w in (
        ("element", weight * signs),
        ("row", weight[:, :1]),
        ("column", weight[0] * signs[0]),
    ):
        smooth = "small smooth" if w.ne(0).all() else "small"
        for reduction in ("none", "mean"):
            sample = (f"weight-{name}-{reduction}", pred, other, smooth)
            yield _sample(*sample, weight=w, reduction=reduction)
    for name, factor in (("number", 4.5), ("tensor", torch.tensor(4.5, dtype=torch.float64))):
        yield _sample(f"avg_factor-{name}", pred, target, weight=weight, avg_factor=factor)
    yield _sample("ties", (pred * 4).round() / 4, target, "edge", reduction="none")
    yield _sample("one-kind", pred, torch.ones_like(pred), "edge")
    yield _sample("no-positives", pred, torch.zeros_like(pred), "edge")
    mmdet = {"min_count": 0.0, "min_positives": 0.0, "count_eps": 2**-23}
    yield _sample("no-positives-mmdet", pred, torch.zeros_like(pred), "edge", **mmdet)
    yield _sample("all-invalid", pred, target, "edge", weight=-weight)
    for name, w in (("0-over-0", 0 * weight), ("infinite", -weight)):
        yield _sample(name, pred, target, "edge", weight=w, min_count=0.0)
    special = [0.0, -0.0, 1.0, 0.3, 1.3, torch.inf, -torch.inf, torch.nan, 1e30, 6e-8]
    edges = torch.tensor([special, special[::-1]], dtype=torch.float64)
    target = (torch.arange(20) % 3 == 0).double().reshape(2, 10)
    for reduction in ("none", "mean"):
        yield _sample(f"edges-{reduction}", edges, target, "edge", reduction=reduction)
    for shape in ((0,), (3, 0)):
        yield _sample(f"edges-{'x'.join(map(str, shape))}", *draw(*shape), "edge")
