"""Samples of the stem `ohem`.

Which pixels are kept must be the same in every precision: logits are multiples of 1/64 below 4, the
same number in every dtype, and probabilities of true classes are equal by construction or well
apart, from one another and from the thresholds here.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator

APART = 1e-5
THRESHOLDS = (0.3, 0.7)
# Shapes of the target and classes: rows, one pixel, one and several images, several dimensions.
SMALL = (((7,), 3), ((1, 1), 1), ((1, 9), 2), ((2, 2, 4), 3))
LARGE = (((1, 8201), 5), ((3, 61), 19))
TAGS = "small smooth"
CASES = (("gdl", 0.3, True), ("gdl", 0.7, False), ("mmseg", 0.7, False), ("mmseg", 0.3, True))


def ohem_input(shape: tuple[int, ...], classes: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Logits (N, C, *) and class indices (N, *) for a target of `shape`."""
    count = int(torch.tensor(shape).prod())
    x = torch.randint(-255, 256, (2 * count + 99, classes), generator=g).double() / 64
    labels = torch.randint(0, classes, (len(x),), generator=g)
    p = x.softmax(1).gather(1, labels[:, None])[:, 0]
    far = torch.stack([(p - t).abs() > APART for t in THRESHOLDS]).all(0)
    p, order = p.sort()
    alone = torch.cat((p[:1] > 0, p.diff() > APART))
    kept = order[(alone & far[order]) | (p == 1)]  # with one class all are certain
    kept = kept[torch.randperm(len(kept), generator=g)[:count]]
    logits = x[kept].reshape(*shape, classes).movedim(-1, 1).contiguous()
    return logits, labels[kept].reshape(shape)


def samples() -> Iterator[Sample]:
    yield from _values()
    yield from _edges()


def _sample(
    name: str, x: Tensor, t: Tensor, tags: str, weight: Tensor | None = None, **options: Any
) -> Sample:
    inputs = {"logits": x, "target": t, "class_weight": weight}
    # Losses of nearly certain pixels are differences of sums near 1.
    return Sample(
        name, F.ohem_cross_entropy, inputs, options, tags=frozenset(tags.split()), scale=0.1
    )


def _values() -> Iterator[Sample]:
    g = generator(10)
    for shape, classes in (*SMALL, *LARGE):
        x, t = ohem_input(shape, classes, g)
        ignored = torch.where(torch.rand(shape, generator=g) < 0.2, 255, t)
        weight = torch.rand(classes, generator=g, dtype=torch.float64) + 0.5
        count, size = int((ignored != 255).sum()), "x".join(map(str, shape))
        is_large = (shape, classes) in LARGE
        for rule, thresh, weighted in CASES[::2] if is_large else CASES:
            # For mmseg the number is that of an image.
            kept = count // 2 if rule == "gdl" else count // 3 // shape[0]
            options: dict[str, Any] = {"rule": rule, "thresh": thresh, "min_kept": kept}
            name, inputs = f"ohem-{rule}-{thresh}-{size}", (x, t, "large" if is_large else TAGS)
            if weighted:
                name, inputs = f"{name}-weighted", (x, ignored, inputs[2], weight)
            yield _sample(name, *inputs, **options)
        for kept in {0, 1, count - 1, count, count + 3} if len(shape) == 3 else ():
            name = f"ohem-gdl-keep{kept}-{size}"
            yield _sample(name, x, ignored, TAGS, weight, thresh=0.3, min_kept=kept)
    x, t = ohem_input((2, 5), 3, g)
    weight = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    for rule in ("gdl", "mmseg"):
        options = {"rule": rule, "thresh": 0.7, "min_kept": 3, "ignore_index": 1}
        yield _sample(f"ohem-{rule}-zero-weights", x, t, "small", weight, **options)


def _edges() -> Iterator[Sample]:
    for rule in ("gdl", "mmseg"):
        for classes in (2, 3, 4, 5, 19):
            x = torch.zeros(1, classes, 6, dtype=torch.float64)
            t = torch.arange(6)[None] % classes
            options: dict[str, Any] = {"rule": rule, "thresh": 1 / classes, "min_kept": 2}
            yield _sample(f"ohem-{rule}-ties-{classes}", x, t, "edge", **options)
        x = torch.tensor([[[0.5, -1.0, 3.0, 0.0, 2.0], [0.0, 1.5, -1.0, 4.0, 2.5]]]).double()
        t = torch.tensor([[0, 1, 1, 255, 0]])
        for thresh, kept in ((0.5, 0), (0.0, 0), (0.0, 2), (1.0, 9)):
            options = {"rule": rule, "thresh": thresh, "min_kept": kept}
            yield _sample(f"ohem-{rule}-thresh{thresh:g}-keep{kept}", x, t, "edge", **options)
        ignored = torch.full_like(t, 255)
        yield _sample(f"ohem-{rule}-all-ignored", x, ignored, "edge", rule=rule)
        yield _sample(f"ohem-{rule}-empty", x[..., :0], t[:, :0], "edge", rule=rule)
        for value in (1e4, -1e4, 100.0, -100.0, -torch.inf, torch.nan):
            wild = x.clone()
            wild[0, 0, 1], wild[0, 1, 3], wild[0, 0, 4] = value, value, value
            options = {"rule": rule, "thresh": 0.6 if value < 0 else 0.0, "min_kept": 2}
            yield _sample(f"ohem-{rule}-edges-{value:g}", wild, t, "edge", **options)
