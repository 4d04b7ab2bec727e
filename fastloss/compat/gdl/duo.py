"""DuoLoss (geo-deep-learning, losses/duo_loss.py)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastloss.compat.gdl.boundary import BoundaryLoss
from fastloss.compat.gdl.lovasz import LovaszSoftmax


class DuoLoss(nn.Module):
    """The mean of `LovaszSoftmax` and `BoundaryLoss`, both made with the same arguments.

    Args:
        ignore_index: the one argument that both have. TypeError for any other, also for those that
            one of them has, and for the `is_binary` of the project's own configuration.

    Call: ``loss(preds, labels)`` -> scalar; logits (N, C, H, W) and class ids (N, H, W).
    Only LovaszSoftmax leaves pixels of label ignore_index out; BoundaryLoss raises IndexError.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.criterion = nn.ModuleList([LovaszSoftmax(**kwargs), BoundaryLoss(**kwargs)])

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, C, H, W) and class ids (N, H, W) -> scalar."""
        lovasz, boundary = self.criterion
        return (lovasz(preds, labels) + boundary(preds, labels)) / 2
