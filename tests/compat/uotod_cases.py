"""Inputs for the matchers of uotod, its modules beside ours, and the table of matchers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastloss.compat import uotod


def batch(
    dtype: torch.dtype = torch.float32, counts: tuple[int, ...] = (5, 2, 0), seed: int = 0,
    rows: int = 9, columns: int = 5, classes: int = 4,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
    """Input and target of images with so many targets, padded at the end; proper boxes in units of
    the image."""
    g = torch.Generator().manual_seed(seed)
    images = len(counts)

    def boxes(count):
        corner = torch.rand(images, count, 2, generator=g, dtype=torch.float64)
        size = torch.rand(images, count, 2, generator=g, dtype=torch.float64)
        return torch.cat((corner, corner + 0.1 + size), -1).to(dtype)

    logits = 2 * torch.randn(images, rows, classes, generator=g, dtype=torch.float64)
    input = {"pred_logits": logits.to(dtype), "pred_boxes": boxes(rows)}
    mask = torch.arange(columns) < torch.tensor(counts)[:, None]
    labels = torch.randint(0, classes, (images, columns), generator=g)
    return input, {"labels": labels, "boxes": boxes(columns), "mask": mask}


def costs(
    dtype: torch.dtype = torch.float32, background: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A cost matrix of images with 6, 3 and 1 of 6 targets, 0 in padding, and its mask."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    cost = torch.randn(3, 11, 6, generator=g, dtype=torch.float64) + 1
    cost = cost.to(dtype) * mask[:, None]
    return torch.cat((cost, cost.new_full((3, 11, 1), 1.5)), -1) if background else cost, mask


def column_order(mask: Tensor, seed: int = 3) -> Tensor:
    """Columns in another order, so that padding is in between, (T,)."""
    return torch.randperm(mask.shape[1], generator=torch.Generator().manual_seed(seed))


class Sum(nn.Module):
    """What MultipleObjectiveLoss is for, in the dtype of its input."""

    reduction = "none"

    def __init__(self, losses: list[nn.Module], weights: list[float]):
        super().__init__()
        self.losses, self.weights = losses, weights

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        values = [loss(input, target) for loss in self.losses]
        return sum(w * (x.sum(1) if x.dim() > 1 else x) for w, x in zip(self.weights, values))


def modules(library: Any, combine: type) -> dict[str, dict[str, nn.Module | None]]:
    """Classification and localization modules, made of the classes of `library`."""
    loss = library.loss
    none = {"reduction": "none"}
    l1, giou = nn.L1Loss(**none), loss.GIoULoss(**none)
    smooth, iou = nn.SmoothL1Loss(**none), loss.IoULoss(**none)
    probability = loss.NegativeProbLoss(**none)
    return {
        "cls": {
            "none": None,
            "probability": probability,
            "cross entropy": nn.CrossEntropyLoss(**none),
            "focal": loss.SigmoidFocalCost(gamma=1.5, **none),
            "weighted": combine([probability], [0.5]),
            "two": combine([probability, loss.SigmoidFocalCost(**none)], [1.0, 2.0]),
            "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1, **none),
        },
        "loc": {
            "none": None,
            "l1": l1,
            "iou": iou,
            "giou": giou,
            "sum": combine([giou, l1], [2.0, 5.0]),
            "nested": combine([combine([l1, iou], [3.0, 1.0])], [0.5]),
            "smooth": smooth,
            "mixed": combine([smooth, iou], [1.0, 2.0]),
        },
    }


OURS = modules(uotod, uotod.MultipleObjectiveLoss)
FUSED = {"cls": {"none", "probability", "cross entropy", "focal", "weighted"},
         "loc": {"none", "l1", "iou", "giou", "sum", "nested"}}  # fmt: skip

MATCHERS = {
    "hungarian": ("Hungarian", {}),
    "closest target": ("ClosestTarget", {}),
    "closest prediction": ("ClosestPrediction", {}),
    "closest prediction above": ("ClosestPrediction", {"threshold": 0.3}),
    "closest prediction below": ("ClosestPrediction", {"threshold": -9.0}),
    "closest prediction uniform": (
        "ClosestPrediction", {"threshold": -0.2, "uniform_background": True},
    ),
    "softmin target": ("SoftMin", {}),
    "softmin target reg": ("SoftMin", {"source": "Targets", "reg": 0.4}),
    "softmin target plain": ("SoftMin", {"background_weight": False}),
    "softmin prediction": ("SoftMin", {"source": "prediction"}),
    "balanced": ("BalancedSinkhorn", {}),
    "balanced reg": ("BalancedSinkhorn", {"reg": 0.3, "num_iter": 3}),
    "balanced plain": (
        "BalancedSinkhorn", {"normalize_cost_matrix": False, "reg_dimless": 2.0},
    ),
    "unbalanced": ("UnbalancedSinkhorn", {}),
    "unbalanced regs": ("UnbalancedSinkhorn", {"reg_pred": 1e3, "reg_target": 1e-3, "num_iter": 9}),
    "unbalanced 0": ("UnbalancedSinkhorn", {"reg_pred": 0.0, "reg_target": 0.7}),
}  # fmt: skip
