"""DistributionFocalLoss, KnowledgeDistillationKLDivLoss and their functions.

Source: mmdet 3.3.0, models/losses/{gfocal,kd}_loss.py.

Losses of rows of logits. Formulas: `fastloss.functional.distribution_focal_loss` and
`fastloss.functional.distillation_loss`.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.reduction import (
    NativeLoss,
    choose_reduction,
    reduce_and_scale,
    weighted_loss,
)
from fastloss.compat.mmdet.registry import LOSSES


@weighted_loss
def distribution_focal_loss(pred: Tensor, label: Tensor) -> NativeLoss:
    """Cross entropy of pred (N, n + 1) with the integers beside label (N,), in [0, n); (N,).

    Called as ``distribution_focal_loss(pred, label, weight=None, reduction="mean",
    avg_factor=None)``. IndexError: a label outside [0, n), on the CPU; on a GPU its loss is NaN.
    (mmdet extrapolates to labels in (-1, 0).)
    """
    if not label.is_floating_point():
        label = label.float()
    return NativeLoss(functional.distribution_focal_loss, pred, label, label.shape, {})


@weighted_loss
def knowledge_distillation_kl_div_loss(
    pred: Tensor, soft_label: Tensor, T: int, detach_target: bool = True
) -> Tensor | NativeLoss:
    """T^2 times the divergence of softmax(pred / T) from softmax(soft_label / T), both logits (N,
    C, *), meaned over the classes; (N, *).

    Called as ``knowledge_distillation_kl_div_loss(pred, soft_label, weight=None,
    reduction="mean", avg_factor=None, *, T, detach_target=True)``. A class that pred and
    soft_label exclude (-inf) adds nothing (mmdet: NaN). Without `detach_target` PyTorch's own
    operations differentiate the target too. AssertionError: different shapes. ValueError: T <= 0.
    """
    if pred.shape != soft_label.shape:
        raise AssertionError(
            "pred and soft_label must have the same shape, "
            f"got {tuple(pred.shape)} and {tuple(soft_label.shape)}"
        )
    if not detach_target:
        log_p, q = F.log_softmax(pred / T, dim=1), F.softmax(soft_label / T, dim=1)
        return F.kl_div(log_p, q, reduction="none").mean(1) * (T * T)
    shape = pred.shape[:1] + pred.shape[2:]
    function = functional.distillation_loss if pred.dim() == 2 else _distillation_of_any_shape
    return NativeLoss(function, pred, soft_label, shape, {"temperature": T})


@LOSSES.register_module()
class DistributionFocalLoss(nn.Module):
    """Distribution focal loss (https://arxiv.org/abs/2006.04388), times `loss_weight`.

    Args:
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` with logits
    pred (N, n + 1) of the integers 0 ... n, and target (N,) in [0, n), integers or floats.
    No rows: the mean is NaN, 0 with an avg_factor. AssertionError: a wrong `reduction_override`.
    ValueError: avg_factor with "sum", other shapes. Targets outside: `distribution_focal_loss`.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred (N, n + 1), target (N,) -> scalar, or (N,) for reduction "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        loss = distribution_focal_loss.__wrapped__(pred, target)
        return reduce_and_scale(loss, weight, reduction, avg_factor, self.loss_weight)


@LOSSES.register_module()
class KnowledgeDistillationKLDivLoss(nn.Module):
    """Distillation by Kullback-Leibler divergence, times `loss_weight`.

    Args:
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.
        T: temperature, >= 1; AssertionError otherwise.

    Call: ``loss(pred, soft_label, weight=None, avg_factor=None, reduction_override=None)`` with
    logits pred of the student and soft_label of the teacher, both (N, C, *); no gradient goes to
    soft_label. No rows: the mean is NaN, 0 with an avg_factor. AssertionError: different shapes, a
    wrong `reduction_override`. ValueError: avg_factor with "sum". Classes that both exclude:
    `knowledge_distillation_kl_div_loss`.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0, T: int = 10) -> None:
        super().__init__()
        if not T >= 1:
            raise AssertionError(f"T must be >= 1, got {T}")
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.T = T

    def forward(
        self,
        pred: Tensor,
        soft_label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred, soft_label (N, C, *) -> scalar, or (N, *) for reduction "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        loss = knowledge_distillation_kl_div_loss.__wrapped__(pred, soft_label, T=self.T)
        return reduce_and_scale(loss, weight, reduction, avg_factor, self.loss_weight)


def _distillation_of_any_shape(
    pred: Tensor, soft_label: Tensor, *, weight: Tensor | None = None, **options: Any
) -> Tensor:
    """`functional.distillation_loss` of (N, C, *), weight broadcasting to (N, *)."""
    shape = pred.shape[:1] + pred.shape[2:]
    if weight is not None:
        weight = weight.expand(shape).flatten()
    x, y = (z.movedim(1, -1).flatten(0, -2) for z in (pred, soft_label))  # (N * *, C)
    loss = functional.distillation_loss(x, y, weight=weight, **options)
    return loss.view(shape) if options["reduction"] == "none" else loss
