"""Losses of similarities between objects, for tracking."""

from .. import functional
from ._module import FunctionalLoss


class MultiPositiveCrossEntropyLoss(FunctionalLoss):
    """Module form of `fastloss.functional.multi_positive_cross_entropy`: forward(logits (N, M),
    target (N, M), weight=None, avg_factor=None)."""

    function = staticmethod(functional.multi_positive_cross_entropy)

    def __init__(self, others_in_both: bool = False, reduction: str = "mean"):
        super().__init__(others_in_both=others_in_both, reduction=reduction)


class EmbeddingDistanceLoss(FunctionalLoss):
    """Module form of `fastloss.functional.embedding_distance`: forward(pred, target, weight=None,
    avg_factor=None)."""

    function = staticmethod(functional.embedding_distance)

    def __init__(
        self,
        neg_pos_ub: float = 3.0,
        pos_margin: float = 0.0,
        neg_margin: float = 0.3,
        hard_mining: bool = True,
        reduction: str = "mean",
        min_count: float = 1.0,
        min_positives: float = 1.0,
        count_eps: float = 0.0,
    ):
        super().__init__(
            neg_pos_ub=neg_pos_ub,
            pos_margin=pos_margin,
            neg_margin=neg_margin,
            hard_mining=hard_mining,
            reduction=reduction,
            min_count=min_count,
            min_positives=min_positives,
            count_eps=count_eps,
        )
