"""The losses of geo-deep-learning (NRCan), its package ``losses``, on fastloss kernels.

One flat namespace: change the import line, nothing else. BoundaryLoss, DuoLoss, LovaszSoftmax and
OhemCrossEntropy2d are the project's own; the other five are those of segmentation_models_pytorch
0.6.0, which its configurations name directly, and the same objects as in `fastloss.compat.smp`.
(The project's earlier DiceLoss and FocalLoss had other arguments and are not here.)

No loss waits for the device; upstream, OhemCrossEntropy2d chooses its pixels on the host.
"""

from fastloss.compat.gdl.boundary import BoundaryLoss
from fastloss.compat.gdl.duo import DuoLoss
from fastloss.compat.gdl.lovasz import LovaszSoftmax
from fastloss.compat.gdl.ohem import OhemCrossEntropy2d
from fastloss.compat.smp import (
    DiceLoss,
    FocalLoss,
    LovaszLoss,
    SoftBCEWithLogitsLoss,
    SoftCrossEntropyLoss,
)

__all__ = [
    "BoundaryLoss",
    "DiceLoss",
    "DuoLoss",
    "FocalLoss",
    "LovaszLoss",
    "LovaszSoftmax",
    "OhemCrossEntropy2d",
    "SoftBCEWithLogitsLoss",
    "SoftCrossEntropyLoss",
]
