"""BoundaryLoss (geo-deep-learning, losses/boundary_loss.py)."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from fastloss import functional

_log = logging.getLogger(__name__)


class BoundaryLoss(nn.Module):
    """1 - F1 of soft class boundaries (Bokhovkin and Burnaev, https://arxiv.org/abs/1905.07852).

    With x the softmax, or the one-hot labels, the boundary of a class is
    b = maxpool(1 - x, theta0) - (1 - x), and its neighbourhood b' = maxpool(b, theta). Per image
    and class P = sum(b b'_true) / (sum b + 1e-7), R = sum(b' b_true) / (sum b_true + 1e-7) and
    F1 = 2 P R / (P + R + 1e-7); the result is the mean of 1 - F1. A class without a boundary in an
    image has loss 1 and counts.

    Args:
        theta0: side of the window that finds boundaries, in pixels, odd.
        theta: side of the window within which two boundaries match, in pixels, odd.
        ignore_index: kept and logged, but not implemented, as upstream: a label of this value that
            is no class is an IndexError.

    Call: ``loss(pred, gt)`` -> scalar. pred: logits (N, C, H, W); gt: class ids (N, H, W) of any
    integer dtype. ValueError: pred does not have four dimensions. IndexError: gt is not integer, or
    a label is out of range (on the CPU; NaN on a GPU). RuntimeError: gt has another shape, or a
    window is even or not positive.

    Departures: a negative label is out of range (upstream counts classes from the last); uint8
    labels are class ids (upstream takes them for a mask); nothing to average gives 0, not NaN.
    """

    def __init__(self, theta0: int = 19, theta: int = 19, ignore_index: int | None = None) -> None:
        super().__init__()
        self.theta0 = theta0
        self.theta = theta
        self.ignore_index = ignore_index
        if ignore_index:
            _log.warning("BoundaryLoss does not implement ignore_index, got %r", ignore_index)

    def forward(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Logits (N, C, H, W) and class ids (N, H, W) -> scalar."""
        if pred.dim() != 4:
            raise ValueError(f"pred must have shape (N, C, H, W), got {tuple(pred.shape)}")
        if gt.is_floating_point() or gt.dtype == torch.bool:
            raise IndexError(f"gt must hold class ids of an integer dtype, got {gt.dtype}")
        expected = (len(pred), *pred.shape[2:])
        if gt.shape != expected:
            raise RuntimeError(f"gt must have the shape {expected}, got {tuple(gt.shape)}")
        for name in ("theta0", "theta"):
            window = getattr(self, name)
            if window < 1 or window % 2 == 0:
                raise RuntimeError(f"{name} must be odd and positive, got {window}")
        return functional.boundary_loss(pred, gt, theta0=self.theta0, theta=self.theta)
