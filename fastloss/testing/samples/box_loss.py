"""Samples of the stem `box_loss`; boxes are xyxy."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ... import functional as F
from .sample import Sample, generator

KINDS = {
    "iou-linear": {"kind": "iou"},
    "iou-square": {"kind": "iou", "mode": "square"},
    "iou-log": {"kind": "iou", "mode": "log"},
    "giou": {"kind": "giou"},
    "diou": {"kind": "diou"},
    "ciou": {"kind": "ciou"},
    "eiou": {"kind": "eiou", "smooth_point": 0.3},
    "siou": {"kind": "siou"},
    "siou-neg_gamma": {"kind": "siou", "neg_gamma": True},
}
# These differ from another kind in the formula alone: one size, one weight and the edges show it.
VARIANTS = ("iou-square", "iou-log", "siou-neg_gamma")
# 1 pair; under, at and over a block of 512; several Triton programs
COUNTS = (1, 9, 512, 513, 2111)


def pairs(count: int, g: torch.Generator, image: float = 100.0) -> tuple[Tensor, Tensor]:
    """Predictions that mostly overlap their targets in an image of that size, (count, 4) each."""
    corner = torch.rand(count, 2, generator=g, dtype=torch.float64) * image
    size = (torch.rand(count, 2, generator=g, dtype=torch.float64) * 0.4 + 0.05) * image
    target = torch.cat((corner, corner + size), 1)
    noise = torch.randn(count, 4, generator=g, dtype=torch.float64)
    return target + noise * size.repeat(1, 2) * 0.2, target


def edge_pairs() -> dict[str, tuple[list[float], list[float]]]:
    """Pairs (pred, target) at the corners of the definition."""
    box = [2.0, 3.0, 12.0, 9.0]
    return {
        "identical": (box, box),
        "disjoint": (box, [30.0, 30.0, 40.0, 50.0]),
        "touching": (box, [12.0, 3.0, 20.0, 9.0]),
        "shared-corner": (box, [2.0, 3.0, 7.0, 6.0]),
        "inside": (box, [4.0, 4.0, 8.0, 8.0]),
        "zero-area-pred": ([5.0, 5.0, 5.0, 5.0], box),
        "zero-area-both": ([5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0]),
        "zero-width": ([5.0, 3.0, 5.0, 9.0], box),
        "inverted-pred": ([12.0, 9.0, 2.0, 3.0], box),
        "inverted-both": ([12.0, 9.0, 2.0, 3.0], [13.0, 8.0, 3.0, 4.0]),  # the hull is empty
        "inverted-x": ([12.0, 3.0, 2.0, 9.0], box),
        "huge": ([-1e20, -2e20, 1e20, 3e20], [-1e20, -1e20, 2e20, 1e20]),
        "huge-alike": ([0.0, 0.0, 1e25, 2e25], [0.0, 0.0, 1.5e25, 2e25]),
        "largest": ([2e38, 2e38, 3e38, 3e38], [2e38, 2e38, 3.2e38, 3.2e38]),
        "tiny": ([1e-20, 1e-20, 3e-20, 3e-20], [1e-20, 1e-20, 2e-20, 4e-20]),
        "nan": ([2.0, torch.nan, 12.0, 9.0], box),
        "infinite": ([2.0, 3.0, torch.inf, 9.0], box),
    }


def samples() -> Iterator[Sample]:
    for name, kind in KINDS.items():
        g = generator(2)
        options = {**kind, "eps": 1e-6}
        # alpha of CIoU is held constant, so finite differences do not give its gradient
        small = {"small"} if name == "ciou" else {"small", "smooth"}
        for count in (9,) if name in VARIANTS else COUNTS:
            pred, target = pairs(count, g)
            tags = small if count < 50 else ({"large"} if count > 512 else set())
            for reduction in ("none", "mean", "sum")[: 2 if name in VARIANTS else 3]:
                yield Sample(
                    f"{name}-{count}-{reduction}",
                    F.box_loss,
                    {"pred": pred, "target": target},
                    {**options, "reduction": reduction},
                    tags=frozenset(tags),
                )
        pred, target = (boxes.reshape(4, 5, 3, 4) for boxes in pairs(60, g))
        for shape in ((4, 5, 3), (4, 1, 1), (3,), (5, 1))[: 1 if name in VARIANTS else 4]:
            weight = torch.rand(shape, generator=g, dtype=torch.float64)
            yield Sample(
                f"{name}-weight-{'x'.join(map(str, shape))}",
                F.box_loss,
                {"pred": pred, "target": target, "weight": weight},
                {**options, "reduction": "none" if shape == (3,) else "mean"},
                tags=frozenset(small),
            )
        for label, factor in (("number", 4.5), ("tensor", torch.tensor(4.5, dtype=torch.float64))):
            inputs = {"pred": pred, "target": target, "weight": weight, "avg_factor": factor}
            yield Sample(f"{name}-avg_factor-{label}", F.box_loss, inputs, options)
        normalised = [boxes / 100 for boxes in pairs(33, g)]
        inputs = dict(zip(("pred", "target"), normalised))
        yield Sample(f"{name}-normalised", F.box_loss, inputs, options)
        for label, (p, t) in edge_pairs().items():
            # float16 cannot hold the huge pair: it becomes infinite there, which is an edge too.
            yield Sample(
                f"{name}-{label}",
                F.box_loss,
                {
                    "pred": torch.tensor([p], dtype=torch.float64),
                    "target": torch.tensor([t], dtype=torch.float64),
                },
                {**options, "reduction": "none"},
                tags=frozenset({"edge"}),
                scale=1.0,
            )
