"""Samples of the stem `boundary`: the sliding maximum and the boundary loss.

Gradients depend on which element is the largest. The maximum of given numbers is exact in every
precision, ties and all. For the loss, logits are multiples of 1/64 below 4, the same number in
every dtype, and in no window are the two largest values close to each other.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ... import functional as F
from .sample import Sample, generator

APART = 1e-5


def _second_is_close(x: Tensor, window: int) -> Tensor:
    """Elements (N, C, H, W) that are the second largest of a window, hardly below the largest."""
    n, c, h, w = x.shape
    padded = functional.pad(x, (window // 2,) * 4, value=-torch.inf)
    windows = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(4)  # (N, C, H, W, K)
    if windows.shape[-1] == 1:
        return torch.zeros_like(x, dtype=torch.bool)
    first, second = windows.topk(2).values.unbind(-1)
    close = second[(first - second < APART) & second.isfinite()]
    return torch.isin(x, close)


def loss_input(
    shape: tuple[int, int, int, int],
    theta0: int,
    theta: int,
    g: torch.Generator,
    special: dict[tuple[int, ...], float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits (N, C, H, W), with these special values, and class indices (N, H, W) of small regions.
    Pixels are drawn anew until values are apart."""
    n, classes, h, w = shape

    def draw() -> Tensor:
        return torch.randint(-255, 256, shape, generator=g).double() / 64

    regions = torch.randint(0, classes, (n, h // 3 + 1, w // 3 + 1), generator=g)
    target = regions.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :h, :w].contiguous()
    x = draw()
    for _ in range(1000):
        for place, value in (special or {}).items():
            x[place] = value
        inverse = 1 - x.softmax(1)
        close = _second_is_close(inverse, theta0)
        if theta0 > 1:  # else there is no boundary at all
            outside = functional.max_pool2d(inverse, theta0, 1, theta0 // 2)
            close |= _second_is_close(outside - inverse, theta)
        if classes == 1 or not close.any():
            return x, target
        x = torch.where(close.any(1, keepdim=True), draw(), x)
    raise AssertionError(f"no logits of shape {shape} are apart")


def samples() -> Iterator[Sample]:
    yield from _pools()
    yield from _losses()
    yield from _edges()


def _pool(name: str, x: Tensor, window: int, tags: str) -> Sample:
    size = "x".join(map(str, x.shape))
    inputs, options = {"x": x}, {"window": window}
    return Sample(
        f"pool-{name}{size}-{window}",
        F.boundary_pool,
        inputs,
        options,
        tags=frozenset(tags.split()),
    )


def _pools() -> Iterator[Sample]:
    g = generator(11)
    for shape, window in (
        ((1, 1, 1, 1), 3), ((1, 2, 3, 4), 3), ((1, 1, 2, 6), 13),
        ((1, 2, 2, 2), 1),
    ):  # fmt: skip
        count = torch.Size(shape).numel()
        x = (torch.randperm(count, generator=g).double().view(shape) - 9) / 32
        yield _pool("", x, window, "small smooth")
    for shape, window in (((2, 3, 13, 37), 7), ((1, 2, 5, 150), 91)):
        yield _pool("ties-", torch.randint(-9, 9, shape, generator=g) / 8.0, window, "large")


def _loss(name: str, x: Tensor, t: Tensor, tags: str, **options: Any) -> Sample:
    inputs, name = {"logits": x, "target": t}, f"boundary-{name}"
    # Both 1 - F1 and the gradient, what a pixel gives less what it takes, cancel in part.
    tagged = {"tags": frozenset(tags.split()), "scale": 0.005}
    return Sample(name, F.boundary_loss, inputs, options, **tagged)


def _losses() -> Iterator[Sample]:
    g = generator(12)
    for shape, theta0, theta, reduction in (
        ((1, 2, 1, 1), 3, 5, "none"), ((1, 2, 3, 4), 5, 3, "none"), ((2, 3, 2, 3), 3, 5, "mean"),
        ((1, 2, 4, 2), 9, 1, "sum"),
    ):  # fmt: skip
        x, t = loss_input(shape, theta0, theta, g)
        options = {"theta0": theta0, "theta": theta, "reduction": reduction}
        size = "x".join(map(str, shape))
        yield _loss(f"{theta0}-{theta}-{size}-{reduction}", x, t, "small smooth", **options)
    for shape, theta0, theta in (
        ((2, 3, 13, 21), 3, 5), ((1, 2, 20, 31), 19, 3), ((1, 35, 5, 7), 3, 3),
    ):  # fmt: skip
        x, t = loss_input(shape, theta0, theta, g)
        size = "x".join(map(str, shape))
        yield _loss(f"{theta0}-{theta}-{size}", x, t, "large", theta0=theta0, theta=theta)


def _edges() -> Iterator[Sample]:
    g = generator(13)
    for value in (torch.nan, -torch.inf):
        x = torch.randint(-9, 9, (2, 2, 4, 5), generator=g) / 8.0
        x[0, 0, 1, 1:3], x[1, 1] = value, value
        yield _pool(f"{value:g}-", x, 3, "edge")
    yield _pool("empty-", torch.zeros(2, 3, 0, 4, dtype=torch.float64), 3, "edge")
    x, t = loss_input((2, 3, 4, 5), 3, 5, g)
    yield _loss("constant", torch.zeros_like(x), t, "edge")
    yield _loss("one-class", x[:, :1], torch.zeros_like(t), "edge")
    yield _loss("empty", x[:0], t[:0], "edge")
    yield _loss("no-pixels", x[:, :, :0], t[:, :0], "edge", reduction="none")
    special = {(0, 1, 2, 2): 1e4, (1, 0, 1, 1): -torch.inf, (1, 2, 3, 3): -1e4}
    x, t = loss_input((2, 3, 4, 5), 3, 5, g, special)
    yield _loss("extreme", x, t, "edge", reduction="none")
    x, t = x.clone(), torch.ones_like(t)  # no boundary, but for the other image NaN counts
    x[0, 1, 2, 2] = torch.nan
    yield _loss("nan", x, t, "edge", reduction="none")
