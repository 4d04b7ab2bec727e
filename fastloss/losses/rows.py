"""Losses of rows of logits: distances as distributions, and a teacher's classes."""

from .. import functional
from ._module import FunctionalLoss


class DistributionFocalLoss(FunctionalLoss):
    """Module form of `fastloss.functional.distribution_focal_loss`: forward(logits (N, n + 1),
    target (N,), weight=None, avg_factor=None)."""

    function = staticmethod(functional.distribution_focal_loss)

    def __init__(self, reduction: str = "mean"):
        super().__init__(reduction=reduction)


class DistillationLoss(FunctionalLoss):
    """Module form of `fastloss.functional.distillation_loss`: forward(logits (N, C), teacher's
    logits (N, C), weight=None, avg_factor=None)."""

    function = staticmethod(functional.distillation_loss)

    def __init__(self, temperature: float = 10.0, reduction: str = "mean"):
        super().__init__(temperature=temperature, reduction=reduction)
