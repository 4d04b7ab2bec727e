"""Triton kernels, one file per stem; importing this registers them for CUDA tensors."""

from . import (  # noqa: F401
    boundary_loss,
    boundary_pool,
    bounded_iou_loss,
    box_loss,
    cross_entropy,
    hard_negative_mask,
    iou_match,
    lovasz,
    lovasz_histogram,
    matching_cost,
    ohem_loss,
    ohem_pixels,
    ohem_threshold,
    pairwise_iou,
    regression_loss,
    scale,
    segmentation_loss,
    segmentation_table,
    sigmoid_focal,
    sinkhorn,
)
