"""fastloss: fused losses for detection and segmentation training.

`fastloss.functional` has the losses as functions, this module as nn.Modules, and
`fastloss.compat.<library>` under the names of the library they replace.
"""

from . import functional, losses
from ._library import backend, backends, debug, load_kernels
from ._version import __version__
from .losses import (
    BinaryCrossEntropyLoss,
    BoundaryLoss,
    BoxLoss,
    CrossEntropyLoss,
    DiceLoss,
    EmbeddingDistanceLoss,
    GaussianFocalLoss,
    HungarianMatcher,
    JaccardLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    MaskDiceLoss,
    MatchedDetectionLoss,
    MCCLoss,
    MultiPositiveCrossEntropyLoss,
    OhemCrossEntropyLoss,
    QualityFocalLoss,
    RegressionLoss,
    SeesawLoss,
    SegmentationLoss,
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    TverskyLoss,
    VarifocalLoss,
)

load_kernels()

__all__ = [
    "BinaryCrossEntropyLoss",
    "BoundaryLoss",
    "BoxLoss",
    "CrossEntropyLoss",
    "DiceLoss",
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
    "__version__",
    "backend",
    "backends",
    "debug",
    "functional",
    "losses",
]
