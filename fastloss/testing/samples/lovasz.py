"""Samples of the stem `lovasz`.

The gradient depends on the order of the errors, so these must be sorted alike in every precision:
logits are multiples of 1/64 below 4, the same number in every dtype, and errors of a problem are
equal by construction or well apart.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator

APART = 1e-5
# shape of the target; classes: one pixel, one image, several, several dimensions
SMALL = (((1, 1), 2), ((1, 7), 3), ((3, 5), 2), ((2, 2, 3), 3))
LARGE = (((2, 150), 3), ((1, 33, 21), 2))


def _logits(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.randint(-255, 256, shape, generator=g).double() / 64


def _apart(pixels: Tensor, labels: Tensor) -> Tensor:
    """Indices of pixels (P, C) whose errors differ from those of the ones before in each class."""
    errors = (pixels.softmax(1) - torch.eye(pixels.shape[1], dtype=pixels.dtype)[labels]).abs()
    kept: list[int] = []
    for i, error in enumerate(errors):
        if not kept or (errors[kept] - error).abs().min() > APART:
            kept.append(i)
    return torch.tensor(kept)


def softmax_input(
    shape: tuple[int, ...], classes: int, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Logits (N, C, *) and class indices (N, *) for a target of `shape`."""
    count = int(torch.tensor(shape).prod())
    pixels = _logits((3 * count + 3, classes), g)
    labels = torch.randint(0, classes, (len(pixels),), generator=g)
    kept = _apart(pixels, labels)[:count]
    logits = pixels[kept].reshape(*shape, classes).movedim(-1, 1).contiguous()
    return logits, labels[kept].reshape(shape)


def samples() -> Iterator[Sample]:
    yield from _softmax()
    yield from _hinge()
    yield from _edges()


def _sample(name: str, function: Any, x: Tensor, t: Tensor, tags: str, **options: Any) -> Sample:
    inputs = {"logits": x, "target": t}
    return Sample(name, function, inputs, options, tags=frozenset(tags.split()))


def _softmax() -> Iterator[Sample]:
    g = generator(7)
    variants: dict[str, dict[str, Any]] = {
        "present": {},
        "all": {"classes": "all"},
        "listed": {"classes": [1, 0]},
        "image": {"per_image": True},
        "image-none": {"per_image": True, "reduction": "none"},
        "image-sum": {"per_image": True, "reduction": "sum"},
        "ignore": {"ignore_index": 1},
        "lenient": {"strict": False},
    }
    for shape, classes in (*SMALL, *LARGE):
        x, t = softmax_input(shape, classes, g)
        tags = "large" if (shape, classes) in LARGE else "small smooth"
        for name, options in variants.items():
            size = "x".join(map(str, shape))
            given = t if name != "lenient" else torch.where(t == 0, classes, t)
            yield _sample(f"softmax-{name}-{size}", F.lovasz_softmax, x, given, tags, **options)
    x, t = softmax_input((2, 9), 3, g)
    p = (x.softmax(1) * 128).round() / 128  # ties between pixels, and none between 0 and 1
    p = p.clamp(1 / 128, 127 / 128)
    options = {"from_logits": False, "ignore_index": 0}
    yield _sample("softmax-probabilities", F.lovasz_softmax, p, t, "small", **options)


def _hinge() -> Iterator[Sample]:
    g = generator(8)
    for shape in ((1, 1), (5,), (3, 4, 2), (2, 700)):
        count = int(torch.tensor(shape).prod())
        # No two equal, none at the kink of the hinge.
        x = (torch.randperm(count, generator=g) - count // 2).double() / 32 + 1 / 128
        x = x.reshape(shape)
        hard = torch.randint(0, 2, shape, generator=g)
        soft = torch.randint(1, 16, shape, generator=g).double() / 16
        variants: dict[str, tuple[Tensor, dict[str, Any]]] = {
            "hard": (hard, {}),
            "soft": (soft, {}),
            "image": (hard.double(), {"per_image": True}),
            "image-none": (hard.double(), {"per_image": True, "reduction": "none"}),
            "ignore": (torch.where(x.abs() < count / 128, 255, hard), {"ignore_index": 255}),
            "ignore-soft": (torch.where(x < 0, -1.0, soft), {"ignore_index": -1}),
        }
        size = "x".join(map(str, shape))
        for name, (t, options) in variants.items():
            # Ignored targets have no value next to them; soft ones may bring errors together.
            smooth = count < 30 and name in ("hard", "image", "image-none", "ignore")
            tags = "large" if count > 1000 else "small smooth" if smooth else "small"
            yield _sample(f"hinge-{name}-{size}", F.lovasz_hinge, x, t, tags, **options)


def _edges() -> Iterator[Sample]:
    x = torch.tensor([[0.5, 0.5, -2.0, 0.5, 3.0, 0.5, 0.0]], dtype=torch.float64)
    for name, target in {
        "ties": [0, 1, 1, 0, 1, 1, 0],
        "no-positive": [0] * 7,
        "no-negative": [1] * 7,
        "all-ignored": [255] * 7,
    }.items():
        t = torch.tensor([target])
        yield _sample(f"hinge-{name}", F.lovasz_hinge, x, t, "edge", ignore_index=255)
        logits = torch.stack((x, -x, x / 2), 1)
        yield _sample(f"softmax-{name}", F.lovasz_softmax, logits, t, "edge", ignore_index=255)
    for value in (1e4, -1e4, torch.nan):
        wild = x.clone()
        wild[0, 3] = value
        for name, label in (("", 1), ("-ignored", 255)):
            t = torch.tensor([[0, 1, 0, label, 1, 1, 0]])
            full = f"hinge{name}-{value:g}"
            yield _sample(full, F.lovasz_hinge, wild, t, "edge", ignore_index=255)
            logits = torch.stack((wild, x), 1)
            full = f"softmax{name}-{value:g}"
            yield _sample(full, F.lovasz_softmax, logits, t, "edge", ignore_index=255)
