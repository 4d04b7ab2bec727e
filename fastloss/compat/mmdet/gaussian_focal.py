"""GaussianFocalLoss and its functions (mmdet 3.3.0, models/losses/gaussian_focal_loss.py).

Formula: `fastloss.functional.gaussian_focal_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastloss import functional
from fastloss.compat.mmdet.reduction import (
    NativeLoss,
    choose_reduction,
    reduce_and_scale,
    weight_reduce_loss,
    weighted_loss,
)
from fastloss.compat.mmdet.registry import LOSSES


@weighted_loss
def gaussian_focal_loss(
    pred: Tensor,
    gaussian_target: Tensor,
    alpha: float = 2.0,
    gamma: float = 4.0,
    pos_weight: float = 1.0,
    neg_weight: float = 1.0,
) -> NativeLoss:
    """Focal loss of heat maps: probabilities pred (*) and Gaussian bumps (*), centres exactly 1.

    Called as ``gaussian_focal_loss(pred, gaussian_target, weight=None, reduction="mean",
    avg_factor=None, **kwargs)``.
    """
    pred, gaussian_target = torch.broadcast_tensors(pred, gaussian_target)
    options = {"alpha": alpha, "gamma": gamma, "pos_weight": pos_weight, "neg_weight": neg_weight}
    return NativeLoss(functional.gaussian_focal_loss, pred, gaussian_target, pred.shape, options)


def gaussian_focal_loss_with_pos_inds(
    pred: Tensor,
    gaussian_target: Tensor,
    pos_inds: Tensor,
    pos_labels: Tensor,
    alpha: float = 2.0,
    gamma: float = 4.0,
    pos_weight: float = 1.0,
    neg_weight: float = 1.0,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """`gaussian_focal_loss` of pred (N, C) with the centres at rows pos_inds (M,) and classes
    pos_labels (M,), wherever the target is 1.

    The positive part (M, 1) and the negative part (N, C) are reduced each for itself, so that the
    means divide by M and by N * C, and then added ("none": broadcast).
    """
    centres = pred[pos_inds].gather(1, pos_labels.unsqueeze(1))
    options = {"alpha": alpha, "gamma": gamma}
    positive = gaussian_focal_loss.__wrapped__(
        centres, torch.ones_like(centres), pos_weight=pos_weight, neg_weight=0.0, **options
    )
    negative = gaussian_focal_loss.__wrapped__(
        pred, gaussian_target, pos_weight=0.0, neg_weight=neg_weight, **options
    )
    return sum(
        weight_reduce_loss(part, None, reduction, avg_factor) for part in (positive, negative)
    )


@LOSSES.register_module()
class GaussianFocalLoss(nn.Module):
    """Focal loss of heat maps (https://arxiv.org/abs/1808.01244), times `loss_weight`.

    Args:
        alpha: exponent of the modulating factor.
        gamma: exponent of 1 - target, which fades the loss around centres.
        reduction: "none", "mean" or "sum"; the mean divides by the number of elements.
        loss_weight: factor of the result.
        pos_weight, neg_weight: factors of the two parts.

    Call: ``loss(pred, target, pos_inds=None, pos_labels=None, weight=None, avg_factor=None,
    reduction_override=None)`` with probabilities pred (*) and Gaussian bumps in [0, 1] of the same
    shape, centres exactly 1, and a weight that broadcasts to it. With pos_inds (M,) the centres of
    pred (N, C) are at those rows and the classes pos_labels (M,), and `weight` counts nothing: see
    `gaussian_focal_loss_with_pos_inds`. AssertionError: pos_inds without pos_labels, a wrong
    `reduction_override`. ValueError: avg_factor with "sum", negative alpha, gamma or part weights.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        gamma: float = 4.0,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        pos_weight: float = 1.0,
        neg_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.pos_weight = pos_weight
        self.neg_weight = neg_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        pos_inds: Tensor | None = None,
        pos_labels: Tensor | None = None,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """pred, target (*); weight broadcasts to (*) -> scalar, or (*) for reduction "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        options = {
            "alpha": self.alpha,
            "gamma": self.gamma,
            "pos_weight": self.pos_weight,
            "neg_weight": self.neg_weight,
        }
        if pos_inds is None:
            native = gaussian_focal_loss.__wrapped__(pred, target, **options)
            return reduce_and_scale(native, weight, reduction, avg_factor, self.loss_weight)
        if pos_labels is None:
            raise AssertionError("pos_labels must be given with pos_inds, got None")
        options.update(reduction=reduction, avg_factor=avg_factor)
        loss = gaussian_focal_loss_with_pos_inds(pred, target, pos_inds, pos_labels, **options)
        return self.loss_weight * loss
