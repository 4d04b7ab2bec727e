"""Samples of the stem `sinkhorn`: plans, which have no gradient, and transport costs."""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


@functools.wraps(F.sinkhorn)
def plan_and_potentials(cost: Tensor, a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """All three results in one matrix (B, N + 1, M + 1)."""
    plan, f, g = F.sinkhorn(cost, a, b, return_potentials=True, **options)
    rows = torch.cat((plan, f[:, :, None]), 2)
    last = torch.cat((g, g.new_zeros(len(g), 1)), 1)
    return torch.cat((rows, last[:, None]), 1)


def masses(mask: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """uotod's for targets (B, M) and a background column: each prediction and each target has mass
    1 / rows, the background what remains."""
    real = mask.double()
    background = rows - real.sum(1, keepdim=True)
    a = torch.ones(len(mask), rows, dtype=torch.float64) / rows
    return a, torch.cat((real, background), 1) / rows


def problem(
    g: torch.Generator, images: int, rows: int, targets: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Costs with a background column, in [0, 1], and masses."""
    cost = torch.rand(images, rows, targets + 1, generator=g, dtype=torch.float64)
    cost[:, :, -1] = 0.6
    # Targets that are padding are anywhere, and there are fewer than predictions.
    real = torch.rand(images, targets, generator=g) < 0.7 * min(1.0, rows / max(targets, 1))
    return cost, *masses(real, rows)


def _sample(name: str, inputs: tuple[Tensor, Tensor, Tensor], tags: str, **options: Any) -> Sample:
    named = dict(zip(("cost", "a", "b"), inputs))
    tags = frozenset(tags.split())
    if "chosen" in tags:
        return Sample(name, F.transport_cost, named, options, constant=("a", "b"), tags=tags)
    return Sample(name, plan_and_potentials, named, options, constant=tuple(named), tags=tags)


KINDS: dict[str, dict[str, Any]] = {
    "balanced": {"reg": 0.05},
    "unbalanced": {"reg": 0.02, "num_iter": 8, "tau_a": 1.0, "tau_b": 0.5},
    "one-side": {"reg": 0.03, "num_iter": 8, "tau_b": 0.01},
    # Costs are up to 100 reg: what is smaller loses digits of float64, and is tested by itself.
    "small": {"reg": 0.01, "num_iter": 4},
    "small-unbalanced": {"reg": 0.01, "num_iter": 4, "tau_a": 0.001},
    "large": {"reg": 10.0, "num_iter": 2},
    "stops": {"reg": 0.1, "tol": 0.04, "num_iter": 50},
}


def samples() -> Iterator[Sample]:
    g = generator(31)
    for kind, options in KINDS.items():
        yield _sample(f"sinkhorn-{kind}", problem(g, 2, 5, 3), "small", **options)
        yield _sample(f"sinkhorn-{kind}-long", problem(g, 2, 130, 20), "large", **options)
    for kind in ("balanced", "unbalanced", "one-side"):
        yield _sample(f"transport-{kind}", problem(g, 2, 5, 3), "small chosen", **KINDS[kind])
    yield _sample("sinkhorn-wide", problem(g, 1, 40, 300), "large", reg=0.05, num_iter=3)
    # Beyond what one program of a GPU goes through.
    yield _sample("sinkhorn-rounds", problem(g, 1, 520, 127), "large apart", reg=0.05, num_iter=2)
    stops = {"reg": 0.2, "tol": 0.5, "num_iter": 5, "tau_b": 0.5}
    yield _sample("sinkhorn-rounds-stop", problem(g, 1, 520, 127), "large apart", **stops)
    # Even where u and v of the start are close enough to be still, there is one round.
    first = {"reg": 0.2, "tol": 100.0, "num_iter": 2}
    shapes = {"first": (2, 5, 15), "rounds-first": (1, 520, 127)}  # no columns beside them
    for name, shape in shapes.items():
        cost, a, b = problem(g, *shape)
        yield _sample(f"sinkhorn-{name}", (cost, a, b.clamp(min=0.01)), "large", **first)
    few = {"reg": 0.1, "num_iter": 3}
    yield _sample("sinkhorn-one", problem(g, 1, 1, 1), "edge", **few)
    cost, a, b = problem(g, 4, 6, 3)
    yield _sample("sinkhorn-no-targets", (cost, *masses(b[:, :-1] < 0, 6)), "edge", **few)
    empty = (cost[:, :, :0], a, b[:, :0])
    yield _sample("sinkhorn-no-columns", empty, "edge", **few)
    yield _sample("sinkhorn-no-rows", (cost[:, :0], a[:, :0], b), "edge", **few)
    yield _sample("sinkhorn-no-images", (cost[:0], a[:0], b[:0]), "edge", **few)
    unused = torch.where(b[:, None] > 0, cost, torch.nan)
    yield _sample("sinkhorn-nan-without-mass", (unused, a, b), "edge", **few)
    forbidden = cost.masked_fill(torch.rand(cost.shape, generator=g) < 0.3, torch.inf)
    forbidden[0, 2] = torch.inf
    forbidden[1, :, 1] = torch.inf
    yield _sample("sinkhorn-forbidden", (forbidden, a, b), "edge", **few, tau_a=1.0, tau_b=1.0)
    bad = a.clone()
    bad[0, 0], bad[1, 2], bad[2, 1] = -1.0, torch.nan, torch.inf
    yield _sample("sinkhorn-bad-masses", (cost, bad, b), "edge", **few)
    bad = cost.clone()
    bad[0, 0, -1], bad[2, 1, -1] = torch.nan, -torch.inf
    yield _sample("sinkhorn-bad-costs", (bad, a, b), "edge", **few)
