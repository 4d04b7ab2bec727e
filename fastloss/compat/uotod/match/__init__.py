"""The matchers of uotod 0.3 (its module ``uotod.match``)."""

from fastloss.compat.uotod.match.closest import ClosestPrediction, ClosestTarget, Min
from fastloss.compat.uotod.match.hungarian import Hungarian
from fastloss.compat.uotod.match.pot import BalancedPOT, UnbalancedPOT
from fastloss.compat.uotod.match.sinkhorn import BalancedSinkhorn, UnbalancedSinkhorn
from fastloss.compat.uotod.match.soft_min import SoftMin
from fastloss.compat.uotod.match.weighted_sum import WeightedSum

__all__ = [
    "BalancedPOT",
    "BalancedSinkhorn",
    "ClosestPrediction",
    "ClosestTarget",
    "Hungarian",
    "Min",
    "SoftMin",
    "UnbalancedPOT",
    "UnbalancedSinkhorn",
    "WeightedSum",
]
