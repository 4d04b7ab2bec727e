"""Losses of similarities between objects, for tracking."""

from .. import functional
from ._module import FunctionalLoss


class MultiPositiveCrossEntropyLoss(FunctionalLoss):
    """Module form of `fastloss.functional.multi_positive_cross_entropy`: forward(logits (N, M),
    target (N, M), weight=None, avg_factor=None)."""

    function = staticmethod(functional.multi_positive_cross_entropy)

    def __init__(self, others_in_both: bool = False, reduction: str = "mean"):
        super().__init__(others_in_both=others_in_both, reduction=reduction)
