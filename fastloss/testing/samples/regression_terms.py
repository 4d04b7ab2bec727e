"""Samples of the stem `regression_terms`."""

from collections.abc import Iterator

import torch

from ... import functional as F
from .regression_loss import SHAPES
from .sample import Sample, generator

# One; two of a kind; all, with means and sums and two betas
CHOICES = {
    "mse": {"kinds": ("mse",)},
    "l1-l1": {"kinds": ("l1", "l1"), "reduction": ("sum", "mean")},
    "all": {
        "kinds": ("mse", "smooth_l1", "l1", "smooth_l1"),
        "beta": (1.0, 0.7, 1.0, 2.5),
        "reduction": ("mean", "sum", "mean", "mean"),
    },
}


def samples() -> Iterator[Sample]:
    g = generator(1)
    for shape in (*SHAPES, (0, 3)):
        pred, target = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in "pt")
        small = {"small", "smooth"} if 0 < pred.numel() < 50 else set()
        tags = frozenset(small | ({"large"} if pred.numel() > 512 else set()))
        for name, options in CHOICES.items():
            inputs = {"pred": pred, "target": target}
            label = f"regression_terms-{name}-{'x'.join(map(str, shape))}"
            yield Sample(label, F.regression_terms, inputs, options, tags=tags)
    pred = torch.randn(6, 3, 11, generator=g, dtype=torch.float64)
    edges = torch.tensor([0.0, 1.0, -1.0, 0.7, 2.5, 1e-30], dtype=torch.float64)
    wild = torch.tensor([0.0, 1.0, torch.inf, torch.nan], dtype=torch.float64)
    for name, x, target in (
        ("ties", pred, pred.clone()),
        ("edges", edges, torch.zeros_like(edges)),
        ("infinite", wild, torch.zeros_like(wild)),
        ("strided", pred.mT, pred.flip(2).mT),
    ):
        yield Sample(
            f"regression_terms-{name}",
            F.regression_terms,
            {"pred": x, "target": target},
            CHOICES["all"],
            tags=frozenset({"edge"}),
        )
