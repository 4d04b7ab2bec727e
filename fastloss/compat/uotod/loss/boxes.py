"""IoULoss and GIoULoss of aligned pairs of boxes (uotod 0.3, loss/{IoULoss,GIoULoss}.py)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from fastloss import functional


class _BoxLoss(_Loss):
    """1 - similarity of pairs of boxes x1 y1 x2 y2, in any unit and without an eps."""

    kind: ClassVar[str]

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """(N, 4), (N, 4) -> scalar, or (N,) for "none"."""
        input, target = torch.broadcast_tensors(_floating(input), _floating(target))
        loss = functional.box_loss(input, target, kind=self.kind, eps=0.0, reduction="none")
        return reduced(loss, self.reduction)


class IoULoss(_BoxLoss):
    """1 - IoU of pairs of boxes, x1 y1 x2 y2.

    Args:
        reduction: "mean" (NaN of no boxes) or "sum"; any other string: none.

    Call: ``loss(input, target)``, (N, 4) both -> scalar, or (N,) without a reduction. Upstream has
    NaN for two boxes without area; here their IoU is 0.
    """

    kind = "iou"


class GIoULoss(_BoxLoss):
    """1 - GIoU of pairs of boxes, x1 y1 x2 y2; areas and hulls of inverted boxes are negative.

    Args:
        reduction: "mean" (NaN of no boxes) or "sum"; any other string: none.

    Call: ``loss(input, target)``, (N, 4) both -> scalar, or (N,) without a reduction. Upstream has
    NaN for boxes without area or hull; here a quotient with a denominator of 0 is 0.
    """

    kind = "giou"


def _floating(boxes: Tensor) -> Tensor:
    return boxes if boxes.is_floating_point() else boxes.to(torch.get_default_dtype())


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """Mean or sum of the loss, or the loss itself for any other word, as uotod reduces."""
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if reduction == "mean" else loss
