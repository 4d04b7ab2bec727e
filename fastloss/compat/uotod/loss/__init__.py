"""The losses of uotod 0.3 (its module ``uotod.loss``)."""

from fastloss.compat.uotod.loss.boxes import GIoULoss, IoULoss
from fastloss.compat.uotod.loss.classification import (
    NegativeProbLoss,
    SigmoidFocalCost,
    SigmoidFocalLoss,
)
from fastloss.compat.uotod.loss.detection import DetectionLoss
from fastloss.compat.uotod.loss.multiple import MultipleObjectiveLoss

__all__ = [
    "DetectionLoss",
    "GIoULoss",
    "IoULoss",
    "MultipleObjectiveLoss",
    "NegativeProbLoss",
    "SigmoidFocalCost",
    "SigmoidFocalLoss",
]
