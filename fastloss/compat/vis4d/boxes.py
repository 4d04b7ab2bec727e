"""iou_loss and IoULoss (vis4d 1.0.0, op/loss/iou_loss.py, with op/box/box2d.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss import functional
from fastloss.compat.vis4d._native import floats, reduced
from fastloss.compat.vis4d.base import Loss
from fastloss.compat.vis4d.reducers import LossReducer, identity_loss

MODES = ("linear", "square", "log")
# Any floor above 0 takes the gradient from pairs that only touch, as vis4d does for every eps.
SMALLEST_EPS = torch.finfo(torch.float32).tiny


def iou_loss(
    pred: Tensor,
    target: Tensor,
    reducer: LossReducer = identity_loss,
    mode: str = "log",
    eps: float = 1e-6,
) -> Tensor:
    """1 - IoU ("linear"), 1 - IoU^2 ("square") or -ln IoU ("log") of pairs, then the reducer.

    The IoU is at least eps, and has no gradient where it is below: pairs that do not overlap, and
    boxes without area or inverted, have IoU eps.

    Args:
        pred: boxes (N, 4), x1 y1 x2 y2, in any unit.
        target: likewise, as many, or one.
        reducer: callable Tensor -> Tensor; the default keeps the loss (N,). The mean over no pairs
            is NaN.
        mode: "linear", "square" or "log"; AssertionError otherwise.
        eps: least IoU; 0 and less count as 1.2e-38, so that "log" stays finite.

    Differentiable in both boxes. RuntimeError: another shape.

    Departures: the gradient of two boxes without area is 0 (upstream: NaN), and the loss of a pair
    with a coordinate that is not finite NaN (upstream: that of a pair that does not overlap).
    """
    _check_mode(mode)
    pred, target = floats(pred, target)
    if pred.shape != target.shape:
        pred, target = torch.broadcast_tensors(pred, target)
    if pred.dim() != 2 or pred.shape[-1] != 4:
        raise RuntimeError(f"pred and target must have shape (N, 4), got {tuple(pred.shape)}")
    return reduced(
        reducer,
        functional.box_loss,
        pred,
        target,
        pred.shape[:-1],
        kind="iou",
        mode=mode,
        eps=max(eps, SMALLEST_EPS),
        union_eps=0.0,
    )


class IoULoss(Loss):
    """`iou_loss` with fixed options.

    Args:
        reducer: callable Tensor -> Tensor of the loss per pair, (N,).
        mode: "linear", "square" or "log"; AssertionError otherwise.
        eps: least IoU.

    Call: ``loss(pred, target)``, boxes (N, 4), x1 y1 x2 y2 -> the reducer's result.
    """

    def __init__(
        self, reducer: LossReducer = identity_loss, mode: str = "log", eps: float = 1e-6
    ) -> None:
        super().__init__(reducer)
        self.mode = _check_mode(mode)
        self.eps = eps

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """(N, 4), (N, 4) -> the reducer's result of (N,)."""
        return iou_loss(pred, target, self.reducer, self.mode, self.eps)


def _check_mode(mode: str) -> str:
    if mode not in MODES:
        raise AssertionError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    return mode
