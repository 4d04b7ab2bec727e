"""Native loss modules, thin over `fastloss.functional`."""

from .boxes import BoxLoss, RegressionLoss
from .classification import (
    BinaryCrossEntropyLoss,
    GaussianFocalLoss,
    QualityFocalLoss,
    SigmoidFocalLoss,
    VarifocalLoss,
)

__all__ = [
    "BinaryCrossEntropyLoss",
    "BoxLoss",
    "GaussianFocalLoss",
    "QualityFocalLoss",
    "RegressionLoss",
    "SigmoidFocalLoss",
    "VarifocalLoss",
]
