"""Native loss modules, thin over `fastloss.functional`."""

from .boundary import BoundaryLoss
from .boxes import BoxLoss, RegressionLoss
from .classification import (
    BinaryCrossEntropyLoss,
    GaussianFocalLoss,
    QualityFocalLoss,
    SeesawLoss,
    SigmoidFocalLoss,
    VarifocalLoss,
)
from .detection import MatchedDetectionLoss
from .lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from .matching import HungarianMatcher
from .rows import DistillationLoss, DistributionFocalLoss
from .segmentation import (
    CrossEntropyLoss,
    DiceLoss,
    JaccardLoss,
    MaskDiceLoss,
    MCCLoss,
    OhemCrossEntropyLoss,
    SegmentationLoss,
    SoftmaxFocalLoss,
    TverskyLoss,
)
from .tracking import EmbeddingDistanceLoss, MultiPositiveCrossEntropyLoss

__all__ = [
    "BinaryCrossEntropyLoss",
    "BoundaryLoss",
    "BoxLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "DistillationLoss",
    "DistributionFocalLoss",
    "EmbeddingDistanceLoss",
    "GaussianFocalLoss",
    "HungarianMatcher",
    "JaccardLoss",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "MCCLoss",
    "MaskDiceLoss",
    "MatchedDetectionLoss",
    "MultiPositiveCrossEntropyLoss",
    "OhemCrossEntropyLoss",
    "QualityFocalLoss",
    "RegressionLoss",
    "SeesawLoss",
    "SegmentationLoss",
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
    "TverskyLoss",
    "VarifocalLoss",
]
