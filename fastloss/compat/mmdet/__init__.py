"""The losses of mmdet 3.3.0 (``mmdet.models.losses``) on fastloss kernels.

One flat namespace: what mmdet has in submodules (``mmdet.models.losses.iou_loss`` ...) is imported
from here too: change the import line, nothing else. Arguments, defaults, values, gradients and
exception types are mmdet's. No loss waits for the device.
"""

from fastloss.compat.mmdet.box_variants import (
    BoundedIoULoss,
    EIoULoss,
    SIoULoss,
    bounded_iou_loss,
    eiou_loss,
    siou_loss,
)
from fastloss.compat.mmdet.boxes import (
    CIoULoss,
    DIoULoss,
    GIoULoss,
    IoULoss,
    ciou_loss,
    diou_loss,
    giou_loss,
    iou_loss,
)
from fastloss.compat.mmdet.dice import DiceLoss, dice_loss
from fastloss.compat.mmdet.focal import (
    FocalLoss,
    py_focal_loss_with_prob,
    py_sigmoid_focal_loss,
    sigmoid_focal_loss,
)
from fastloss.compat.mmdet.reduction import reduce_loss, weight_reduce_loss, weighted_loss
from fastloss.compat.mmdet.registry import LOSSES, build_loss
from fastloss.compat.mmdet.regression import (
    BalancedL1Loss,
    L1Loss,
    MSELoss,
    SmoothL1Loss,
    balanced_l1_loss,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from fastloss.compat.mmdet.seesaw import SeesawLoss, seesaw_ce_loss

__all__ = [
    "LOSSES",
    "BalancedL1Loss",
    "BoundedIoULoss",
    "CIoULoss",
    "DIoULoss",
    "DiceLoss",
    "EIoULoss",
    "FocalLoss",
    "GIoULoss",
    "IoULoss",
    "L1Loss",
    "MSELoss",
    "SIoULoss",
    "SeesawLoss",
    "SmoothL1Loss",
    "balanced_l1_loss",
    "bounded_iou_loss",
    "build_loss",
    "ciou_loss",
    "dice_loss",
    "diou_loss",
    "eiou_loss",
    "giou_loss",
    "iou_loss",
    "l1_loss",
    "mse_loss",
    "py_focal_loss_with_prob",
    "py_sigmoid_focal_loss",
    "reduce_loss",
    "seesaw_ce_loss",
    "sigmoid_focal_loss",
    "siou_loss",
    "smooth_l1_loss",
    "weight_reduce_loss",
    "weighted_loss",
]
