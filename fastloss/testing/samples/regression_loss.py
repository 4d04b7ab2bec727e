"""Samples of the stem `regression_loss`."""

from collections.abc import Iterator

import torch

from ... import functional as F
from .sample import Sample, generator

# 1 element; under, at and just over a block of 512; three dims; several Triton programs
SHAPES = ((1,), (7,), (512,), (513,), (3, 5, 37), (4, 2111))


def samples() -> Iterator[Sample]:
    for kind in ("l1", "smooth_l1", "mse", "balanced_l1"):
        g = generator(1)
        for shape in SHAPES:
            pred, target = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in "pt")
            tags = (
                {"small", "smooth"}
                if pred.numel() < 50
                else ({"large"} if pred.numel() > 512 else set())
            )
            for reduction in ("none", "mean", "sum"):
                yield Sample(
                    f"{kind}-{'x'.join(map(str, shape))}-{reduction}",
                    F.regression_loss,
                    {"pred": pred, "target": target},
                    {"kind": kind, "reduction": reduction, "beta": 0.7},
                    tags=frozenset(tags),
                )
        pred, target = (torch.randn(6, 3, 11, generator=g, dtype=torch.float64) for _ in "pt")
        for name, shape in (
            ("element", (6, 3, 11)),
            ("row", (6, 1, 1)),
            ("column", (11,)),
            ("middle", (3, 1)),
        ):
            weight = torch.rand(shape, generator=g, dtype=torch.float64)
            yield Sample(
                f"{kind}-weight-{name}",
                F.regression_loss,
                {"pred": pred, "target": target, "weight": weight},
                {"kind": kind, "reduction": "none" if name == "row" else "mean"},
                tags=frozenset({"small", "smooth"}),
            )
        weight = torch.rand(6, 3, 11, generator=g, dtype=torch.float64)
        for name, factor in (("number", 4.5), ("tensor", torch.tensor(4.5, dtype=torch.float64))):
            yield Sample(
                f"{kind}-avg_factor-{name}",
                F.regression_loss,
                {"pred": pred, "target": target, "weight": weight, "avg_factor": factor},
                {"kind": kind},
            )
        edges = torch.tensor(
            [0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, torch.inf, torch.nan], dtype=torch.float64
        )
        yield Sample(
            f"{kind}-edges",
            F.regression_loss,
            {"pred": edges, "target": torch.zeros(8, dtype=torch.float64)},
            {"kind": kind, "reduction": "none"},
            tags=frozenset({"edge"}),
        )
        yield Sample(
            f"{kind}-ties",
            F.regression_loss,
            {"pred": pred, "target": pred.clone()},
            {"kind": kind},
            tags=frozenset({"edge"}),
        )
