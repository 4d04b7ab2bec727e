"""Inputs of the workloads: random, but with the statistics of real training steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Inputs:
    """What a function is called with. Gradients are taken for the first `differentiable` arguments
    (0: the forward alone is run), given that of the result (None: the result is a loss)."""

    arguments: tuple[Any, ...]  # tensors and tuples of tensors
    named: Mapping[str, Any] = field(default_factory=dict)
    differentiable: int = 1
    incoming: Tensor | None = None

    @classmethod
    def of_loss(
        cls,
        pred: Tensor,
        target: Tensor | tuple[Tensor, ...],
        weight: Tensor | None,
        avg_factor: float,
    ) -> Inputs:
        """What every loss is called with."""
        return cls((pred, target), {"weight": weight, "avg_factor": avg_factor})

    @property
    def dtype(self) -> torch.dtype:
        return self.arguments[0].dtype

    def tensors(self) -> list[Tensor]:
        values = [*self.arguments, *self.named.values(), self.incoming]
        flat = [part for v in values for part in (v if isinstance(v, tuple) else (v,))]
        return [part for part in flat if isinstance(part, Tensor)]

    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors())

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers with every floating-point tensor in another dtype."""

        def convert(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(convert, value))
            floating = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if floating else value

        named = {name: convert(value) for name, value in self.named.items()}
        return replace(
            self,
            arguments=convert(self.arguments),
            named=named,
            incoming=convert(self.incoming),
        )


class Source:
    """A seeded generator on one device."""

    def __init__(self, device: torch.device | str, seed: int = 0) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        sample = torch.rand(shape, generator=self.generator, device=self.device)
        return sample.mul_(high - low).add_(low)

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        sample = torch.randn(shape, generator=self.generator, device=self.device)
        return sample.mul_(std).add_(mean)

    def labels(self, rows: int, classes: int, positive: float) -> Tensor:
        """Class ids (rows,) of which the share `positive` are objects, the others background =
        classes."""
        labels = torch.randint(classes, (rows,), generator=self.generator, device=self.device)
        return labels.masked_fill_(self.uniform(rows) >= positive, classes)


def _weights(source: Source, *shape: int) -> tuple[Tensor, float]:
    """Weights in [0.1, 1], as centerness gives, and their sum, which is what heads divide by."""
    weight = source.uniform(*shape, low=0.1)
    return weight, float(weight.sum(dtype=torch.float64))


def box_pairs(source: Source, shape: Shape) -> Inputs:
    """Positive samples: a target and a prediction jittered by 15 % of its size, so nearly all pairs
    overlap. One weight per box."""
    (rows,) = shape
    pred, target = _jittered_boxes(source, rows)
    return Inputs.of_loss(pred, target, *_weights(source, rows))


def box_coordinates(source: Source, shape: Shape) -> Inputs:
    """As `box_pairs`, with a weight per coordinate, as the heads of mmdet pass them."""
    (rows,) = shape
    pred, target = _jittered_boxes(source, rows)
    return Inputs.of_loss(pred, target, *_weights(source, rows, 4))


def _jittered_boxes(source: Source, rows: int) -> tuple[Tensor, Tensor]:
    centre = source.uniform(rows, 2, high=1024.0)
    size = source.normal(rows, 2, mean=4.0, std=0.8).exp_()  # median 55 pixels
    target = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    centre = centre + source.normal(rows, 2, std=0.15) * size
    size = size * source.normal(rows, 2, std=0.15).exp_()
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), target


def regression_pairs(source: Source, shape: Shape) -> Inputs:
    """Encoded box deltas; with beta = 1 about half of the errors lie on each branch of smooth
    L1."""
    target = source.normal(*shape)
    pred = target + source.normal(*shape, std=1.5)
    return Inputs.of_loss(pred, target, *_weights(source, *shape))


# Logits at the start of training sit at the focal prior of 0.01, log(0.01 / 0.99) = -4.6; they
# spread later.
_LOGIT_MEAN, _LOGIT_STD = -4.0, 1.5
# Share of anchors that are matched to an object.
_POSITIVE = 0.02


def dense_classes(source: Source, shape: Shape) -> Inputs:
    """Logits and one-hot targets (N, C), without weights."""
    rows, classes = shape
    labels = source.labels(rows, classes, _POSITIVE)
    target = torch.zeros(rows, classes + 1, device=source.device)
    target = target.scatter_(1, labels[:, None], 1.0)[:, :classes].contiguous()
    positives = float((labels < classes).sum())
    logits = source.normal(rows, classes, mean=_LOGIT_MEAN, std=_LOGIT_STD)
    return Inputs.of_loss(logits, target, None, max(positives, 1.0))


def index_classes(source: Source, shape: Shape) -> Inputs:
    """Logits (N, C), class ids (N,) with background = C, one weight per row."""
    rows, classes = shape
    logits = source.normal(rows, classes, mean=_LOGIT_MEAN, std=_LOGIT_STD)
    labels = source.labels(rows, classes, _POSITIVE)
    return Inputs.of_loss(logits, labels, *_weights(source, rows, 1))


def quality_classes(source: Source, shape: Shape) -> Inputs:
    """As `index_classes`, with the IoU of the predicted box as the score of the true class."""
    inputs = index_classes(source, shape)
    logits, labels = inputs.arguments
    scores = source.uniform(shape[0], low=0.2)
    weight, avg_factor = inputs.named["weight"], inputs.named["avg_factor"]
    return Inputs.of_loss(logits, (labels, scores), weight[:, 0], avg_factor)


def iou_aware_classes(source: Source, shape: Shape) -> Inputs:
    """Dense targets that hold the IoU at the true class and 0 elsewhere, without weights."""
    inputs = dense_classes(source, shape)
    logits, target = inputs.arguments
    target = target * source.uniform(shape[0], 1, low=0.2)
    return replace(inputs, arguments=(logits, target))


def heatmaps(source: Source, shape: Shape) -> Inputs:
    """Centre heat maps (B, C, H, W): 1 at a centre (1 cell in 10,000), a Gaussian tail around (5
    %), else 0.

    Predictions are probabilities, clamped to [1e-4, 1 - 1e-4] as CenterNet does.
    """
    chance = source.uniform(*shape)
    target = torch.where(chance < 0.05, torch.exp(-160 * chance), 0.0)
    target = torch.where(chance < 1e-4, 1.0, target)
    logits = source.normal(*shape, mean=-2.2, std=1.5)
    probs = logits.sigmoid_().clamp_(1e-4, 1 - 1e-4)
    return Inputs.of_loss(probs, target, None, max(float((target == 1).sum()), 1.0))
