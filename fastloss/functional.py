"""Every native loss as a function."""

from .ops.box_loss import box_loss
from .ops.pairwise_iou import pairwise_iou
from .ops.regression_loss import regression_loss
from .ops.sigmoid_focal import (
    binary_cross_entropy,
    gaussian_focal_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)

__all__ = [
    "binary_cross_entropy",
    "box_loss",
    "gaussian_focal_loss",
    "pairwise_iou",
    "quality_focal_loss",
    "regression_loss",
    "sigmoid_focal_loss",
    "varifocal_loss",
]
