"""EmbeddingDistanceLoss, MultiPosCrossEntropyLoss and multi_pos_cross_entropy (vis4d 1.0.0,
op/loss/{embedding_distance,multi_pos_cross_entropy}.py)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from fastloss import functional
from fastloss.compat.vis4d._native import native, reduced
from fastloss.compat.vis4d.base import Loss
from fastloss.compat.vis4d.reducers import LossReducer, SumWeightedLoss, identity_loss
from fastloss.ops.embedding_distance import mined_weight


class EmbeddingDistanceLoss(Loss):
    """Squared error of the similarities of pairs of embeddings, of which few are negatives.

    With x the prediction less its margin, in [0, 1], and t the target, the result is
    sum(w (x - t)^2) / #(w > 0). Pairs with w <= 0 are invalid: they are neither positive nor
    negative and have the target -1. Negatives beyond the limit have w = 0.

    Args:
        reducer: kept, but not used, as upstream.
        neg_pos_ub: most negatives for each positive (for one, if there is none), rounded down in
            total; 0 or less, infinity, NaN: no limit.
        pos_margin, neg_margin: subtracted from positives and from negatives where above 0.
        hard_mining: keep the negatives with the largest error, of equal ones the first; False:
            random ones.

    Call: ``loss(pred, target, weight=None)`` -> scalar, all (N, M); target 1 is the same identity,
    0 another; weight None: ones. Differentiable in pred and weight. AssertionError: pred and target
    of different shapes, or empty. RuntimeError: a target that requires a gradient. If no pair
    counts the loss is 0 / 0, NaN.

    Departure: no argument is written to (upstream writes to all three, and fails for a `pred` that
    is a leaf).
    """

    def __init__(
        self,
        reducer: LossReducer = identity_loss,
        neg_pos_ub: float = 3.0,
        pos_margin: float = 0.0,
        neg_margin: float = 0.3,
        hard_mining: bool = True,
    ) -> None:
        super().__init__(reducer)
        self.neg_pos_ub = neg_pos_ub
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin
        self.hard_mining = hard_mining

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(N, M), (N, M), (N, M) or None -> scalar."""
        if pred.shape != target.shape or target.numel() == 0:
            raise AssertionError(
                f"pred and target must have one shape with at least one element, "
                f"got {tuple(pred.shape)} and {tuple(target.shape)}"
            )
        options = {**self._options(), "min_count": 0.0}
        return native(functional.embedding_distance, pred, target, weight, **options)

    def update_weight(
        self, pred: Tensor, target: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the loss is computed from, all (N, M): the predictions less their margins, in
        [0, 1]; the weights, 0 for negatives beyond the limit; and how many of them are above 0,
        a 0-d int64 tensor."""
        pred, weight, count = native(mined_weight, pred, target, weight, **self._options())
        return pred, weight, count.long()

    def _options(self) -> dict[str, Any]:
        names = ("pos_margin", "neg_margin", "hard_mining")
        limit = self.neg_pos_ub if math.isfinite(self.neg_pos_ub) else 0.0  # as upstream, none
        return {"neg_pos_ub": limit, **{name: getattr(self, name) for name in names}}


def multi_pos_cross_entropy(pred: Tensor, target: Tensor, reducer: LossReducer) -> Tensor:
    """ln(1 + sum of exp(s_n - s_p) over all positives p and negatives n) of each row, then the
    reducer; 0 for a row without positives or without negatives.

    Args:
        pred: similarities (N, M), of any size.
        target: (N, M), 1 for positives, 0 for negatives. As upstream, pairs with another target are
            both, with a similarity of 0 and without a gradient.
        reducer: callable Tensor -> Tensor of the loss per row, (N,).

    Time and memory are those of reading N x M numbers (upstream: N x M x M). RuntimeError: another
    shape.
    """
    return reduced(
        reducer,
        functional.multi_positive_cross_entropy,
        pred,
        target,
        pred.shape[:1],
        others_in_both=True,
    )


class MultiPosCrossEntropyLoss(Loss):
    """`multi_pos_cross_entropy` with `SumWeightedLoss`: sum(weight * loss) / avg_factor.

    Args:
        reducer: kept, but not used, as upstream.

    Call: ``loss(pred, target, weight, avg_factor)`` -> scalar; similarities (N, M), target (N, M),
    weight (N,), avg_factor a number or a 0-d tensor, to which nothing is added.
    """

    def forward(
        self, pred: Tensor, target: Tensor, weight: Tensor, avg_factor: float | Tensor
    ) -> Tensor:
        """(N, M), (N, M), (N,), number -> scalar."""
        return multi_pos_cross_entropy(pred, target, SumWeightedLoss(weight, avg_factor))
