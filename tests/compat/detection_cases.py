"""Batches, losses and matchers with which DetectionLoss is called, for ours and for uotod's."""

from __future__ import annotations

import types

import torch
from torch import Tensor, nn

Case = tuple[Tensor, Tensor, dict[str, Tensor]]  # logits (B, P, C), boxes (B, P, 4), target


def boxes(g: torch.Generator, *shape: int) -> Tensor:
    """x1 y1 x2 y2 in a unit image, float64."""
    corners = torch.rand(*shape, 4, generator=g, dtype=torch.float64)
    return torch.cat((corners[..., :2], corners[..., :2] + corners[..., 2:] * 0.5 + 0.02), -1)


def case(
    seed: int,
    counts: tuple[int, ...] = (6, 3),
    predictions: int = 40,
    classes: int = 5,
    position: str = "first",
) -> Case:
    """`counts` targets in each image, padded behind; float64."""
    g = torch.Generator().manual_seed(seed)
    batch, most = len(counts), max(counts)
    first, last = (1, classes) if position == "first" else (0, classes - (position == "last"))
    labels = torch.randint(first, last, (batch, most), generator=g)
    if position == "none":
        labels = nn.functional.one_hot(labels, classes).double()
    target = {
        "labels": labels,
        "boxes": boxes(g, batch, most),
        "mask": torch.arange(most) < torch.tensor(counts)[:, None],
    }
    logits = 2 * torch.randn(batch, predictions, classes, generator=g, dtype=torch.float64)
    return logits, boxes(g, batch, predictions), target


def class_loss(library: types.SimpleNamespace, name: str, dtype: torch.dtype) -> nn.Module:
    weight = torch.tensor([0.2, 1.0, 1.5, 0.7, 2.0], dtype=dtype)
    return {
        "cross_entropy": lambda: nn.CrossEntropyLoss(reduction="none"),
        "weighted": lambda: nn.CrossEntropyLoss(weight=weight, reduction="none"),
        "negative_prob": lambda: library.loss.NegativeProbLoss("none"),
        "focal": lambda: library.loss.SigmoidFocalLoss("none", 0.25),
        "smoothed": lambda: nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none"),
        "twice": lambda: library.loss.MultipleObjectiveLoss(
            [nn.CrossEntropyLoss(weight=weight, reduction="none")], [2.0]
        ),
    }[name]()


def box_loss(library: types.SimpleNamespace, name: str) -> nn.Module:
    return {
        "giou": lambda: library.loss.GIoULoss("none"),
        "iou": lambda: library.loss.IoULoss("none"),
        "l1": lambda: nn.L1Loss(reduction="none"),
        "smooth_l1": lambda: nn.SmoothL1Loss(reduction="none", beta=0.2),
        "mse": lambda: nn.MSELoss(reduction="none"),
        "huber": lambda: nn.HuberLoss(reduction="none"),
        "both": lambda: library.loss.MultipleObjectiveLoss(
            [nn.L1Loss(reduction="none"), library.loss.GIoULoss("none")], [5.0, 2.0]
        ),
    }[name]()


def matcher(library: types.SimpleNamespace, name: str, one_hot: bool = False) -> nn.Module:
    classes = library.loss.SigmoidFocalCost if one_hot else library.loss.NegativeProbLoss
    overlap = {"loc_match_module": library.loss.IoULoss("none"), "background_cost": 0.5}
    match = library.match
    return {
        "hungarian": lambda: match.Hungarian(
            cls_match_module=classes("none"), loc_match_module=nn.L1Loss(reduction="none")
        ),
        "unbalanced": lambda: match.UnbalancedSinkhorn(**overlap, reg_pred=1e3, reg_target=1e-3),
        "balanced": lambda: match.BalancedSinkhorn(**overlap),
        "closest": lambda: match.ClosestPrediction(**overlap),
        "soft": lambda: match.SoftMin(**overlap, reg=0.1),
    }[name]()
