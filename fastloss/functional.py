"""Every native loss as a function."""

from .ops.boundary import boundary_loss, boundary_pool
from .ops.box_loss import box_loss
from .ops.contrastive import multi_positive_cross_entropy
from .ops.cross_entropy import cross_entropy
from .ops.distillation import distillation_loss
from .ops.distribution_focal import distribution_focal_loss
from .ops.embedding_distance import embedding_distance
from .ops.equalization import equalization_loss
from .ops.gradient_harmonized import ghm_classification_loss, ghm_regression_loss
from .ops.hard_negative_mask import hard_negative_mask
from .ops.iou_match import iou_match
from .ops.linear_assignment import linear_assignment, linear_sum_assignment
from .ops.lovasz import lovasz_hinge, lovasz_softmax
from .ops.mask_dice import mask_dice_loss
from .ops.matched_detection import matched_detection
from .ops.matching_cost import matching_cost
from .ops.ohem import ohem_cross_entropy
from .ops.pairwise_iou import pairwise_iou
from .ops.regression_loss import regression_loss
from .ops.regression_terms import regression_terms
from .ops.seesaw import seesaw_loss
from .ops.segmentation_loss import segmentation_loss
from .ops.sigmoid_focal import (
    binary_cross_entropy,
    gaussian_focal_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from .ops.sinkhorn import sinkhorn, transport_cost

__all__ = [
    "binary_cross_entropy",
    "boundary_loss",
    "boundary_pool",
    "box_loss",
    "cross_entropy",
    "distillation_loss",
    "distribution_focal_loss",
    "embedding_distance",
    "equalization_loss",
    "gaussian_focal_loss",
    "ghm_classification_loss",
    "ghm_regression_loss",
    "hard_negative_mask",
    "iou_match",
    "linear_assignment",
    "linear_sum_assignment",
    "lovasz_hinge",
    "lovasz_softmax",
    "mask_dice_loss",
    "matched_detection",
    "matching_cost",
    "ohem_cross_entropy",
    "multi_positive_cross_entropy",
    "pairwise_iou",
    "quality_focal_loss",
    "regression_loss",
    "regression_terms",
    "seesaw_loss",
    "segmentation_loss",
    "sigmoid_focal_loss",
    "sinkhorn",
    "transport_cost",
    "varifocal_loss",
]
