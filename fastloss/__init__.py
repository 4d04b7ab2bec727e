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
    DistillationLoss,
    DistributionFocalLoss,
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


def register_mmdet(replace: bool = False) -> None:
    """Let mmengine build the losses of `fastloss.compat.mmdet` from configs.

    Every class is put into mmengine's registry MODELS under the scope "fastloss": write
    ``loss_bbox=dict(type="fastloss.GIoULoss", loss_weight=2.0)``. With `replace` those that mmdet
    registers are put in place of mmdet's own too, so that configs stay as they are; this imports
    mmdet. It may be called again. ImportError: mmengine (mmdet) is not installed.
    """
    from .compat.mmdet._mmengine import register

    register(replace)


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
    "__version__",
    "backend",
    "backends",
    "debug",
    "functional",
    "losses",
    "register_mmdet",
]
