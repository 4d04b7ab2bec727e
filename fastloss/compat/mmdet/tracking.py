"""MultiPosCrossEntropyLoss, L2Loss, MarginL2Loss, TripletLoss (mmdet 3.3.0, losses/
{multipos_cross_entropy,l2,margin,triplet}_loss.py): similarities and features for tracking."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastloss import functional
from fastloss._library import values_may_be_read
from fastloss.compat.mmdet.reduction import (
    AVG_FACTOR_EPS,
    NativeLoss,
    choose_reduction,
    reduce_and_scale,
    same_shape,
    weighted_loss,
)
from fastloss.compat.mmdet.registry import LOSSES
from fastloss.ops.embedding_distance import mined_weight
from fastloss.reference._reduce import compute_dtype


@LOSSES.register_module()
class MultiPosCrossEntropyLoss(nn.Module):
    """ln(1 + sum of exp(s_n - s_p) over all positives p and negatives n) of each row, times
    `loss_weight`; 0 for a row without positives or without negatives.

    Source: https://arxiv.org/abs/2006.06664 (QDTrack).

    Args:
        reduction: "none", "mean" or "sum".
        loss_weight: factor of the result.

    Call: ``loss(cls_score, label, weight=None, avg_factor=None, reduction_override=None)`` ->
    scalar, or (N,) for "none"; similarities (N, M) of any dtype, labels (N, M), weight (N,) or what
    broadcasts against it. Labels >= 1 are positives, 0 negatives; as in mmdet, others are both,
    with a similarity of 0 and without a gradient. Further keywords are ignored. Time
    and memory are those of reading N x M numbers (mmdet: N x M x M).
    AssertionError: different shapes, a wrong `reduction_override`. ValueError: avg_factor with
    "sum", shapes that are not (N, M).
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.loss_weight = loss_weight

    def multi_pos_cross_entropy(
        self,
        pred: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        reduction: str = "mean",
        avg_factor: float | None = None,
    ) -> Tensor:
        """The loss without `loss_weight`: (N, M), (N, M), (N,) -> scalar, or (N,) for "none"."""
        return self._loss(pred, label, weight, reduction, avg_factor, 1)

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(N, M), (N, M), (N,) -> scalar, or (N,) for "none"."""
        same_shape(cls_score, label)
        reduction = choose_reduction(reduction_override, self.reduction)
        return self._loss(cls_score, label, weight, reduction, avg_factor, self.loss_weight)

    @staticmethod
    def _loss(
        pred: Tensor,
        label: Tensor,
        weight: Tensor | None,
        reduction: str,
        avg_factor: float | None,
        loss_weight: float,
    ) -> Tensor:
        pred = pred if pred.is_floating_point() else pred.float()
        target = label if label.dtype == torch.bool else label.clamp(max=1)
        loss = functional.multi_positive_cross_entropy
        rows = NativeLoss(loss, pred, target, pred.shape[:1], {"others_in_both": True})
        return reduce_and_scale(rows, weight, reduction, avg_factor, loss_weight)


@weighted_loss
def l2_loss(pred: Tensor, target: Tensor) -> NativeLoss:
    """Squared error (pred - target)^2 of tensors of one shape, else AssertionError.

    Called as ``l2_loss(pred, target, weight=None, reduction="mean", avg_factor=None)``. mmdet's
    package does not export it.
    """
    same_shape(pred, target)
    dtype = torch.promote_types(pred.dtype, target.dtype)
    pred, target = pred.to(dtype), target.to(dtype)
    return NativeLoss(functional.regression_loss, pred, target, pred.shape, {"kind": "mse"})


class _MinedL2Loss(nn.Module):
    """What L2Loss and MarginL2Loss share."""

    def __init__(
        self,
        neg_pos_ub: int = -1,
        pos_margin: float = -1,
        neg_margin: float = -1,
        hard_mining: bool = False,
        reduction: str = "mean",
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.neg_pos_ub = neg_pos_ub
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin
        self.hard_mining = hard_mining
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """(N, M), (N, M), (N, M) or None -> scalar, or (N, M) for "none"."""
        reduction = choose_reduction(reduction_override, self.reduction)
        if reduction == "sum":
            raise ValueError('reduction="sum" does not go with the divisor of this loss')
        options = {"reduction": reduction, "min_count": 0.0, "count_eps": AVG_FACTOR_EPS}
        loss = self._native(functional.embedding_distance, pred, target, weight, **options)
        return loss if self.loss_weight == 1 else self.loss_weight * loss

    def update_weight(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, avg_factor: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the loss is computed from: the predictions less their margins, in [0, 1], and the
        weights, 0 for negatives beyond the limit, both (N, M); how many of these are above 0, a
        0-d int64 tensor. The given avg_factor has no influence."""
        pred, weight, count = self._native(mined_weight, pred, target, weight)
        return pred, weight, count.long()

    @staticmethod
    def random_choice(gallery: Any, num: int) -> Any:
        """`num` random elements of a tensor, a numpy array or a list, which gives an array; none
        twice. AssertionError: it has fewer. (The losses themselves choose on the device.)"""
        if len(gallery) < num:
            raise AssertionError(f"gallery must have at least {num} elements, got {len(gallery)}")
        if isinstance(gallery, Tensor):
            return gallery[torch.randperm(len(gallery), device=gallery.device)[:num]]
        import numpy as np  # which fastloss itself does not need

        return np.asarray(gallery)[np.random.permutation(len(gallery))[:num]]

    def _native(
        self,
        function: Callable[..., Any],
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        **options: Any,
    ) -> Any:
        same_shape(pred, target)
        if target.requires_grad:
            raise RuntimeError("target must not require a gradient, call detach() on it first")
        dtype = torch.promote_types(pred.dtype, target.dtype)
        return function(
            pred.to(dtype),
            target,
            weight,
            neg_pos_ub=self.neg_pos_ub if math.isfinite(self.neg_pos_ub) else 0,  # no limit
            pos_margin=self.pos_margin,
            neg_margin=self.neg_margin,
            hard_mining=self.hard_mining,
            min_positives=0.0,
            **options,
        )


@LOSSES.register_module()
class L2Loss(_MinedL2Loss):
    """Squared error of the similarities of pairs, of which few are negatives, times `loss_weight`.

    With x the prediction less its margin, in [0, 1], and t the target, the loss of a pair is
    w (x - t)^2, and "mean" divides the sum by #(w > 0) + finfo(float32).eps. Pairs with w <= 0 are
    invalid: they are neither positive nor negative and have the target -1. Negatives beyond the
    limit have w = 0.

    Args:
        neg_pos_ub: most negatives for each positive, rounded down in total (without a positive,
            none is kept); 0 or less, infinity, NaN: no limit.
        pos_margin, neg_margin: subtracted from positives and from negatives where above 0.
        hard_mining: keep the negatives with the largest error, of equal ones the first; False:
            random ones.
        reduction: "none" or "mean"; "sum" raises ValueError at every call, as in mmdet.
        loss_weight: factor of the result.

    Call: ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)``; pred,
    target and weight (N, M); target 1 is the same identity, 0 another; weight None: ones. As in
    mmdet a given avg_factor has no influence. Differentiable in pred and weight.
    AssertionError: pred and target of different shapes, a wrong `reduction_override`. RuntimeError:
    a target that requires a gradient.

    Departure: no argument is written to (mmdet writes to all three, and fails for a `pred` that is
    a leaf). mmdet's MarginL2Loss also takes a target that broadcasts, with a warning.
    """


@LOSSES.register_module()
class MarginL2Loss(_MinedL2Loss):
    """`L2Loss` with target and weight of integers or half precision in float32, and so the result
    of such. (mmdet rounds float64 to float32 too; here it is kept.)

    Args, call and errors as there.
    """

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """(N, M), (N, M), (N, M) or None -> scalar, or (N, M) for "none"."""
        target, weight = (
            x if x is None else x.to(torch.promote_types(x.dtype, torch.float32))
            for x in (target, weight)
        )
        return super().forward(pred, target, weight, avg_factor, reduction_override)


@LOSSES.register_module()
class TripletLoss(nn.Module):
    """Margin ranking loss of the farthest positive and the nearest negative of each row, times
    `loss_weight`: mean of max(0, d(i, p) - d(i, n) + margin).

    Rows of one label are positives of each other, a row itself included. The distance of two
    features is Euclidean, sqrt(max(|a|^2 + |b|^2 - 2 a b, 1e-12)); features in half precision are
    computed with in float32.

    Source: https://arxiv.org/abs/1703.07737 (batch hard).

    Args:
        margin: by how much negatives shall be farther than positives.
        loss_weight: factor of the result.
        hard_mining: must be True at the call; NotImplementedError otherwise.

    Call: ``loss(inputs, targets)`` -> scalar; features (N, D), labels (N,). Equal distances share
    the gradient. RuntimeError: a row without negatives, where its label may be read without
    waiting (on the CPU, and in debug mode); elsewhere the result is NaN. RuntimeError also for
    shapes that do not fit. ValueError: no rows.
    """

    def __init__(
        self, margin: float = 0.3, loss_weight: float = 1.0, hard_mining: bool = True
    ) -> None:
        super().__init__()
        self.margin = margin
        self.ranking_loss = nn.MarginRankingLoss(margin=margin)
        self.loss_weight = loss_weight
        self.hard_mining = hard_mining

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(N, D), (N,) -> scalar."""
        if not self.hard_mining:
            raise NotImplementedError("only hard_mining=True is implemented, as in mmdet")
        return self.hard_mining_triplet_loss_forward(inputs, targets)

    def hard_mining_triplet_loss_forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(N, D), (N,) -> scalar, whatever `hard_mining` is."""
        rows = len(inputs)
        if rows == 0:
            raise ValueError("inputs must have at least one row")
        same = targets.expand(rows, rows)
        same = same == same.t()
        alone = same.all(1)  # (N,): without negatives
        if values_may_be_read(alone) and alone.any():
            raise RuntimeError("targets must have a row of another label for each row")

        x = inputs.to(compute_dtype(inputs))
        norms = x.square().sum(1, keepdim=True)  # (N, 1)
        squares = torch.addmm(norms + norms.t(), x, x.t(), alpha=-2)
        distance = squares.clamp(min=1e-12).sqrt()  # (N, N)
        farthest = distance.masked_fill(~same, -torch.inf).amax(1)
        nearest = distance.masked_fill(same, torch.inf).amin(1).masked_fill(alone, torch.nan)
        loss = self.ranking_loss(nearest, farthest, torch.ones_like(nearest))
        return self.loss_weight * loss.to(inputs.dtype)
