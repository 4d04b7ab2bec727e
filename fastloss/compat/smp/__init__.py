"""The losses of segmentation_models_pytorch 0.6.0 (``segmentation_models_pytorch.losses``) on
fastloss kernels.

One flat namespace, and `_functional` beside it: change the import line, nothing else. Arguments,
defaults, values, gradients and exception types are smp's. No loss waits for the device, but
FocalLoss where it must: mode "binary", reduction "none" and an ignore_index.

Everywhere: integer targets may have any integer dtype; ignored pixels count nothing even if their
logits are not finite; on a GPU a label out of range makes the loss NaN where smp's kernels assert.
"""

from fastloss.compat.smp.bce import SoftBCEWithLogitsLoss
from fastloss.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE
from fastloss.compat.smp.cross_entropy import SoftCrossEntropyLoss
from fastloss.compat.smp.focal import FocalLoss
from fastloss.compat.smp.lovasz import LovaszLoss
from fastloss.compat.smp.mcc import MCCLoss
from fastloss.compat.smp.region import DiceLoss, JaccardLoss, TverskyLoss

__all__ = [
    "BINARY_MODE",
    "MULTICLASS_MODE",
    "MULTILABEL_MODE",
    "DiceLoss",
    "FocalLoss",
    "JaccardLoss",
    "LovaszLoss",
    "MCCLoss",
    "SoftBCEWithLogitsLoss",
    "SoftCrossEntropyLoss",
    "TverskyLoss",
]
