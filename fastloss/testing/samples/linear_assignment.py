"""Samples of the stem `linear_assignment`: the costs that it chooses, which have a gradient."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator


@functools.wraps(F.linear_assignment)
def chosen_costs(cost: Tensor, mask: Tensor | None = None) -> Tensor:
    """The cost of each column with the row that is assigned to it, 0 for columns without one."""
    row = F.linear_assignment(cost, mask)
    if cost.shape[1] == 0:
        return (row + 1).to(cost.dtype) + cost.sum(1)
    at = row.clamp(min=0)[:, None]
    return torch.where(row >= 0, cost.gather(1, at)[:, 0], 0)


def _sample(name: str, cost: Tensor, mask: Tensor | None, tags: str) -> Sample:
    inputs = {"cost": cost, "mask": mask}
    return Sample(name, chosen_costs, inputs, tags=frozenset((*tags.split(), "chosen", "host")))


def samples() -> Iterator[Sample]:
    g = generator(23)
    shapes = {"tall": (3, 7, 4), "wide": (3, 4, 7), "square": (2, 5, 5), "one": (1, 1, 1)}
    for name, shape in shapes.items():
        cost = torch.randn(shape, generator=g, dtype=torch.float64)
        some = torch.rand(shape[0], shape[2], generator=g) < 0.7
        yield _sample(f"assignment-{name}", cost, None, "small")
        yield _sample(f"assignment-{name}-masked", cost, some, "small")
        yield _sample(f"assignment-{name}-ties", (cost * 2).round(), some, "small")
    for name, shape in {"tall": (2, 300, 40), "wide": (2, 40, 300), "square": (1, 60, 60)}.items():
        cost = torch.randn(shape, generator=g, dtype=torch.float64)
        some = torch.rand(shape[0], shape[2], generator=g) < 0.7
        yield _sample(f"assignment-{name}-large", cost, some, "large")
    cost = torch.randn(2, 6, 4, generator=g, dtype=torch.float64)
    none = torch.zeros(2, 4, dtype=torch.bool)
    yield _sample("assignment-all-masked", cost, none, "edge")
    yield _sample("assignment-no-columns", cost[..., :0], none[:, :0], "edge")
    yield _sample("assignment-no-rows", cost[:, :0], ~none, "edge")
    yield _sample("assignment-no-problems", cost[:0], none[:0], "edge")
    yield _sample("assignment-constant", torch.full_like(cost, 2.5), None, "edge")
    forbidden = cost.masked_fill(torch.rand(cost.shape, generator=g) < 0.3, torch.inf)
    yield _sample("assignment-forbidden", forbidden, None, "edge")
    padded = torch.where(none[:, None], cost, torch.nan).masked_fill(cost > 0, -torch.inf)
    yield _sample("assignment-nan-masked", padded, none, "edge")
