"""Samples of the stem `lovasz_histogram`.

The bin of an error must be the same in every precision: errors lie away from the edges of bins, or
are exact.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .lovasz import softmax_input
from .sample import Sample, generator

BINS = 256
INSIDE = 1e-3  # of a bin's width

SHAPES = ((1, 1), (2, 2, 3), (2, 150))


def inside_bins(x: Tensor, bins: int) -> Tensor:
    """Which pixels of logits (N, C, *) have no error near the edge of a bin, (N, *)."""
    place = x.softmax(1) * bins % 1  # 1 - p is as near to one
    return ((place - 0.5).abs() < 0.5 - INSIDE).all(1)


def samples() -> Iterator[Sample]:
    yield from _softmax()
    yield from _hinge()
    yield from _edges()


def _sample(name: str, function: Any, x: Tensor, t: Tensor, tags: str, **options: Any) -> Sample:
    options = {"method": "histogram", **options}
    inputs = {"logits": x, "target": t}
    return Sample(name, function, inputs, options, tags=frozenset(tags.split()))


def _softmax() -> Iterator[Sample]:
    g = generator(17)
    variants: dict[str, dict[str, Any]] = {
        "present": {},
        "all": {"classes": "all"},
        "listed": {"classes": [1, 0, 1]},
        "image": {"per_image": True},
        "image-none": {"per_image": True, "reduction": "none"},
        "image-sum": {"per_image": True, "reduction": "sum"},
        "lenient": {"strict": False},
    }
    for shape in SHAPES:
        x, t = softmax_input(shape, 3, g)
        t = torch.where(inside_bins(x, BINS), t, 255)
        tags = "large" if t.numel() > 100 else "small"
        for name, options in variants.items():
            if tags == "large" and name in ("listed", "image-sum", "lenient"):
                continue
            size = "x".join(map(str, shape))
            given = t if name != "lenient" else torch.where(t == 0, 3, t)
            options = {"bins": BINS, "ignore_index": 255, **options}
            yield _sample(f"bins-{name}-{size}", F.lovasz_softmax, x, given, tags, **options)
    p = (x.softmax(1) * 128).round() / 128
    for bins in (1, 3, 2000):
        options = {"bins": bins, "from_logits": False, "ignore_index": 255}
        # Off the edges of 3 bins, too.
        yield _sample(f"bins-{bins}", F.lovasz_softmax, p + 2**-9, t, "small", **options)


def _hinge() -> Iterator[Sample]:
    g = generator(18)
    for shape in ((1, 1), (3, 4, 2), (2, 700)):
        count = int(torch.tensor(shape).prod())
        x = (torch.randperm(count, generator=g) - count // 2).double() / 32 + 1 / 128
        x = x.reshape(shape)
        hard = torch.randint(0, 2, shape, generator=g)
        variants: dict[str, tuple[Tensor, dict[str, Any]]] = {
            "hard": (hard, {"bins": 4096}),
            "few": (hard, {"bins": 7}),
            "image": (hard, {"per_image": True}),
            "image-none": (hard.bool(), {"per_image": True, "reduction": "none"}),
            "ignore": (torch.where(x.abs() < count / 128, 255, hard), {"ignore_index": 255}),
        }
        size, tags = "x".join(map(str, shape)), "large" if count > 1000 else "small"
        for name, (t, options) in variants.items():
            options = {"bins": 64, **options}
            yield _sample(f"bins-hinge-{name}-{size}", F.lovasz_hinge, x, t, tags, **options)


def _edges() -> Iterator[Sample]:
    x = torch.tensor([[0.5, 0.5, -2.0, 0.5, 3.0, 0.5, 0.0]], dtype=torch.float64)
    for name, target in {
        "ties": [0, 1, 1, 0, 1, 1, 0],
        "no-positive": [0] * 7,
        "no-negative": [1] * 7,
        "all-ignored": [255] * 7,
    }.items():
        t = torch.tensor([target])
        options = {"ignore_index": 255, "bins": 64}
        yield _sample(f"bins-hinge-{name}", F.lovasz_hinge, x, t, "edge", **options)
        logits = torch.stack((x, -x, x / 2), 1)
        yield _sample(f"bins-softmax-{name}", F.lovasz_softmax, logits, t, "edge", **options)
    for value in (1e4, torch.nan):
        wild = x.clone()
        wild[0, 3] = value
        for name, label in (("", 1), ("-ignored", 255)):
            t = torch.tensor([[0, 1, 0, label, 1, 1, 0]])
            full = f"bins-hinge{name}-{value:g}"
            options = {"ignore_index": 255, "bins": 64}
            yield _sample(full, F.lovasz_hinge, wild, t, "edge", **options)
            logits = torch.stack((wild, x), 1)
            full = f"bins-softmax{name}-{value:g}"
            yield _sample(full, F.lovasz_softmax, logits, t, "edge", **options)
