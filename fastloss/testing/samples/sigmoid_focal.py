"""Samples of the stem `sigmoid_focal`."""

from collections.abc import Iterator
from typing import Any

import torch

from ... import functional as F
from .sample import Sample, generator

# one element; an odd number of classes; rows that end inside a block of 512; several programs
SHAPES = {
    (1, 1): ("none",),
    (5, 3): ("none", "mean", "sum"),
    (41, 37): ("none", "mean"),
    (300, 7): ("mean",),
}

VARIANTS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("focal", F.sigmoid_focal_loss, {}),
    ("focal-gamma1.5-unbalanced", F.sigmoid_focal_loss, {"gamma": 1.5, "alpha": -1.0}),
    ("focal-gamma0", F.sigmoid_focal_loss, {"gamma": 0.0, "alpha": 0.4}),
    ("focal-activated", F.sigmoid_focal_loss, {"activated": True}),
    ("quality", F.quality_focal_loss, {}),
    ("quality-beta1.5", F.quality_focal_loss, {"beta": 1.5}),
    ("quality-activated", F.quality_focal_loss, {"activated": True}),
    ("varifocal", F.varifocal_loss, {}),
    ("varifocal-gamma3", F.varifocal_loss, {"gamma": 3.0, "iou_weighted": False}),
    ("gaussian", F.gaussian_focal_loss, {}),
    ("gaussian-general", F.gaussian_focal_loss,
     {"alpha": 1.5, "gamma": 3.0, "pos_weight": 2.0, "neg_weight": 0.5}),
    ("bce", F.binary_cross_entropy, {}),
)  # fmt: skip


def _first(function: Any, options: dict[str, Any]) -> tuple[str, bool]:
    """Name of the first argument and whether it holds probabilities."""
    gaussian = function is F.gaussian_focal_loss
    return ("probs" if gaussian else "logits"), gaussian or options.get("activated", False)


def _samples(name: str, function: Any, options: dict[str, Any]) -> Iterator[Sample]:
    g = generator(3)
    argument, probability = _first(function, options)

    def tensor(*shape: int) -> torch.Tensor:
        x = torch.randn(shape, generator=g, dtype=torch.float64) * 2
        return x.sigmoid() if probability else x

    for shape, reductions in SHAPES.items():
        if options and shape in ((1, 1), (300, 7)):
            continue
        x = tensor(*shape)
        dense = torch.rand(shape, generator=g, dtype=torch.float64) * 0.9 + 0.05
        classes = shape[-1]
        index = torch.randint(0, classes + 1, shape[:1], generator=g)
        index[0] = classes - 1
        tags = {"small", "smooth"} if x.numel() < 50 else ({"large"} if x.numel() > 512 else set())
        hard = torch.nn.functional.one_hot(index, classes + 1)[:, :-1]
        targets: dict[str, Any] = {"dense": dense, "hard": hard, "index": index}
        if function is F.quality_focal_loss:
            score = torch.rand(shape[:1], generator=g, dtype=torch.float64) * 0.9 + 0.05
            targets["pair"] = (index, score)
        for form, target in targets.items():
            for reduction in reductions:
                yield Sample(
                    f"{name}-{form}-{'x'.join(map(str, shape))}-{reduction}",
                    function,
                    {argument: x, "target": target},
                    {**options, "reduction": reduction},
                    tags=frozenset(tags),
                )
        weights = {"row": (shape[0],)} if function is F.quality_focal_loss else {
            "element": shape, "row": (shape[0], 1), "column": (classes,),
        }  # fmt: skip
        if shape == (5, 3):
            for form, weight_shape in weights.items():
                weight = torch.rand(weight_shape, generator=g, dtype=torch.float64)
                for reduction, factor in (
                    ("none", None),
                    ("mean", 2.5),
                    ("mean", torch.tensor(2.5, dtype=torch.float64)),
                ):
                    yield Sample(
                        f"{name}-weight-{form}-{reduction}-{type(factor).__name__}",
                        function,
                        {argument: x, "target": index, "weight": weight, "avg_factor": factor},
                        {**options, "reduction": reduction},
                        tags=frozenset({"small", "smooth"}),
                    )


def _edges(name: str, function: Any, options: dict[str, Any]) -> Iterator[Sample]:
    argument, probability = _first(function, options)
    values = (
        [0.0, 1.0, 0.5, 1e-7, 1e-30]
        if probability
        else [0.0, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4]
    )
    grid = torch.cartesian_prod(
        torch.tensor([*values, torch.nan], dtype=torch.float64),
        torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64),
    )  # (values * 3, 2)
    yield Sample(
        f"{name}-edges",
        function,
        {argument: grid[:, :1].contiguous(), "target": grid[:, 1:].contiguous()},
        {**options, "reduction": "none"},
        tags=frozenset({"edge"}),
    )


def _binary_cross_entropy() -> Iterator[Sample]:
    """Class weights and ignored entries, in both target forms."""
    g = generator(4)
    x = torch.randn(9, 5, generator=g, dtype=torch.float64) * 2
    class_weight = torch.rand(5, generator=g, dtype=torch.float64) + 0.5
    index = torch.tensor([0, 4, 5, 2, -100, 1, 5, -100, 3])
    dense = torch.rand(9, 5, generator=g, dtype=torch.float64)
    dense[1, 2], dense[4, 4] = -100, -1
    for form, target in (("index", index), ("dense", dense)):
        for average in (False, True):
            yield Sample(
                f"bce-ignore-{form}-{'valid' if average else 'all'}",
                F.binary_cross_entropy,
                {"logits": x, "target": target, "class_weight": class_weight},
                {"reduction": "mean", "avg_non_ignore": average},
            )
    hard = (torch.rand(9, 5, generator=g) < 0.3).to(torch.int64)
    hard[2, 3] = 255
    yield Sample(
        "bce-ignore-255",
        F.binary_cross_entropy,
        {"logits": x, "target": hard},
        {"ignore_index": 255, "reduction": "none"},
    )


def samples() -> Iterator[Sample]:
    for variant in VARIANTS:
        yield from _samples(*variant)
        yield from _edges(*variant)
    yield from _binary_cross_entropy()
