"""Inputs of the workloads: random, but with the statistics of real training steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Inputs:
    """What a loss is called with. The gradient is taken for `pred` alone."""

    pred: Tensor
    target: Tensor | tuple[Tensor, ...]
    weight: Tensor | None
    avg_factor: float

    def tensors(self) -> list[Tensor]:
        targets = self.target if isinstance(self.target, tuple) else (self.target,)
        return [self.pred, *targets, *([] if self.weight is None else [self.weight])]

    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors())

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers with every floating-point tensor in another dtype."""

        def convert(t: Tensor) -> Tensor:
            return t.to(dtype) if t.is_floating_point() else t

        if isinstance(self.target, tuple):
            target = tuple(convert(t) for t in self.target)
        else:
            target = convert(self.target)
        weight = None if self.weight is None else convert(self.weight)
        return Inputs(convert(self.pred), target, weight, self.avg_factor)


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
    overlap."""
    (rows,) = shape
    centre = source.uniform(rows, 2, high=1024.0)
    size = source.normal(rows, 2, mean=4.0, std=0.8).exp_()  # median 55 pixels
    target = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    centre = centre + source.normal(rows, 2, std=0.15) * size
    size = size * source.normal(rows, 2, std=0.15).exp_()
    pred = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    return Inputs(pred, target, *_weights(source, rows))


def regression_pairs(source: Source, shape: Shape) -> Inputs:
    """Encoded box deltas; with beta = 1 about half of the errors lie on each branch of smooth
    L1."""
    target = source.normal(*shape)
    pred = target + source.normal(*shape, std=1.5)
    return Inputs(pred, target, *_weights(source, *shape))


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
    return Inputs(logits, target, None, max(positives, 1.0))


def index_classes(source: Source, shape: Shape) -> Inputs:
    """Logits (N, C), class ids (N,) with background = C, one weight per row."""
    rows, classes = shape
    logits = source.normal(rows, classes, mean=_LOGIT_MEAN, std=_LOGIT_STD)
    labels = source.labels(rows, classes, _POSITIVE)
    return Inputs(logits, labels, *_weights(source, rows, 1))


def quality_classes(source: Source, shape: Shape) -> Inputs:
    """As `index_classes`, with the IoU of the predicted box as the score of the true class."""
    inputs = index_classes(source, shape)
    scores = source.uniform(shape[0], low=0.2)
    return Inputs(inputs.pred, (inputs.target, scores), inputs.weight[:, 0], inputs.avg_factor)


def iou_aware_classes(source: Source, shape: Shape) -> Inputs:
    """Dense targets that hold the IoU at the true class and 0 elsewhere, without weights."""
    inputs = dense_classes(source, shape)
    target = inputs.target * source.uniform(shape[0], 1, low=0.2)
    return Inputs(inputs.pred, target, None, inputs.avg_factor)


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
    return Inputs(probs, target, None, max(float((target == 1).sum()), 1.0))
