"""Boundary losses."""

from .. import functional
from .segmentation import _PixelLoss


class BoundaryLoss(_PixelLoss):
    """Module form of `fastloss.functional.boundary_loss`: forward(logits (N, C, H, W), class
    indices (N, H, W))."""

    function = staticmethod(functional.boundary_loss)

    def __init__(self, theta0: int = 3, theta: int = 5, reduction: str = "mean"):
        super().__init__(theta0=theta0, theta=theta, reduction=reduction)
