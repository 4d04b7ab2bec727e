"""QualityFocalLoss and its functions (mmdet 3.3.0, models/losses/gfocal_loss.py).

Formula: `fastloss.functional.quality_focal_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.reduction import (
    NativeLoss,
    choose_reduction,
    reduce_and_scale,
    same_shape,
    weighted_loss,
)
from fastloss.compat.mmdet.registry import LOSSES


@weighted_loss
def quality_focal_loss(
    pred: Tensor, target: tuple[Tensor, Tensor], beta: float = 2.0
) -> NativeLoss:
    """Sum over classes of abs(p - t)^beta bce(x, t), t the quality at the row's label, 0 elsewhere.

    pred (N, C) logits, target (class ids (N,), qualities (N,)) -> (N,). Ids outside 0..C-1 are
    background. Called as
    ``quality_focal_loss(pred, target, weight=None, reduction="mean", avg_factor=None, **kwargs)``.
    AssertionError: target has not two elements.
    """
    return _of_labels(pred, target, beta, activated=False)


@weighted_loss
def quality_focal_loss_with_prob(
    pred: Tensor, target: tuple[Tensor, Tensor], beta: float = 2.0
) -> NativeLoss:
    """`quality_focal_loss` of probabilities pred (N, C)."""
    return _of_labels(pred, target, beta, activated=True)


@weighted_loss
def quality_focal_loss_tensor_target(
    pred: Tensor, target: Tensor, beta: float = 2.0, activated: bool = False
) -> NativeLoss:
    """`quality_focal_loss` of dense qualities: pred and target (N, C, *) -> (N, *).

    activated: pred holds probabilities. AssertionError: different shapes.
    """
    return _of_qualities(pred, target, beta, activated)


@LOSSES.register_module()
class QualityFocalLoss(nn.Module):
    """Quality focal loss (https://arxiv.org/abs/2006.04388), times `loss_weight`.

    Args:
        use_sigmoid: must be True; AssertionError otherwise.
        beta: exponent of the modulating factor.
        reduction: "none", "mean" or "sum"; the mean divides by the number of rows N.
        loss_weight: factor of the result.
        activated: pred holds probabilities, not logits.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)``. pred (N,
    C) with a tuple (class ids (N,), qualities (N,)); ids outside 0..C-1 are background. Or pred
    and target (N, C, *), dense qualities. weight (N,). No rows: the mean is NaN, 0 with an
    avg_factor. AssertionError: a wrong `reduction_override`, a tuple that has not two elements,
    dense qualities of another shape. ValueError: avg_factor with "sum".
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        beta: float = 2.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid is not True:
            raise AssertionError(f"use_sigmoid must be True, got {use_sigmoid!r}")
        self.use_sigmoid = use_sigmoid
        self.beta = beta
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.activated = activated

    def forward(
        self,
        pred: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred (N, C), target dense or (ids, qualities) -> scalar, or (N,) for "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        native = _of_qualities if isinstance(target, Tensor) else _of_labels
        loss = native(pred, target, self.beta, self.activated)
        return reduce_and_scale(loss, weight, reduction, avg_factor, self.loss_weight)


def _of_labels(
    pred: Tensor, target: tuple[Tensor, Tensor], beta: float, activated: bool
) -> NativeLoss:
    if len(target) != 2:
        raise AssertionError(
            f"target must have two elements, class ids and qualities, got {len(target)}"
        )
    label, score = target
    classes, label = pred.size(1), label.long()
    label = torch.where((label < 0) | (label > classes), classes, label)
    options = {"beta": beta, "activated": activated}
    return NativeLoss(functional.quality_focal_loss, pred, (label, score), pred.shape[:1], options)


def _of_qualities(pred: Tensor, target: Tensor, beta: float, activated: bool) -> NativeLoss:
    pred, target = same_shape(pred, target)
    if target.requires_grad:  # An entry of 0 is a negative without a quality.
        target = torch.where(target != 0, target, 0)
    # Classes last, where the native loss sums.
    pred, target = pred.movedim(1, -1), target.to(pred.dtype).movedim(1, -1)
    options = {"beta": beta, "activated": activated}
    return NativeLoss(functional.quality_focal_loss, pred, target, pred.shape[:-1], options)
