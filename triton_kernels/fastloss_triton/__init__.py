"""Triton kernels, one file per stem; importing this registers them for CUDA tensors."""

from . import (  # noqa: F401
    boundary_loss,
    boundary_pool,
    bounded_iou_loss,
    box_loss,
    cross_entropy,
    pairwise_iou,
    regression_loss,
    scale,
    segmentation_loss,
    segmentation_table,
    sigmoid_focal,
)
