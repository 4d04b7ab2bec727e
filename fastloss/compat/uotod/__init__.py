"""Losses and matchers of uotod 0.3, unbalanced optimal transport for object detection, on fastloss
kernels.

The names lie where uotod has them, in `loss`, `match` and `utils`, and here too.
"""

from fastloss.compat.uotod import loss, match, utils
from fastloss.compat.uotod.loss import (
    DetectionLoss,
    GIoULoss,
    IoULoss,
    MultipleObjectiveLoss,
    NegativeProbLoss,
    SigmoidFocalCost,
    SigmoidFocalLoss,
)
from fastloss.compat.uotod.match import (
    BalancedPOT,
    BalancedSinkhorn,
    ClosestPrediction,
    ClosestTarget,
    Hungarian,
    Min,
    SoftMin,
    UnbalancedPOT,
    UnbalancedSinkhorn,
    WeightedSum,
)
from fastloss.compat.uotod.utils import box_cxcywh_to_xyxy, convert_target_to_dict

__all__ = [
    "BalancedPOT",
    "BalancedSinkhorn",
    "ClosestPrediction",
    "ClosestTarget",
    "DetectionLoss",
    "GIoULoss",
    "Hungarian",
    "IoULoss",
    "Min",
    "MultipleObjectiveLoss",
    "NegativeProbLoss",
    "SigmoidFocalCost",
    "SigmoidFocalLoss",
    "SoftMin",
    "UnbalancedPOT",
    "UnbalancedSinkhorn",
    "WeightedSum",
    "box_cxcywh_to_xyxy",
    "convert_target_to_dict",
    "loss",
    "match",
    "utils",
]
