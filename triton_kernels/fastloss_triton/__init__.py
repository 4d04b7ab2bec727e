"""Triton kernels, one file per stem; importing this registers them for CUDA tensors."""

from . import box_loss, regression_loss, scale, sigmoid_focal  # noqa: F401
