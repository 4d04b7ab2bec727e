"""SoftBCEWithLogitsLoss (smp 0.6.0, losses/soft_bce.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat.smp.targets import native_term


class SoftBCEWithLogitsLoss(nn.Module):
    """Binary cross entropy with logits of a smoothed target, t (1 - s) + (1 - t) s.

    Args:
        weight: factor of every element, broadcast to y_pred; a buffer, as pos_weight.
        ignore_index: target value of elements with loss 0; None: no such value.
        reduction: "mean" over all elements, ignored ones included; "sum"; any other string for
            none.
        smooth_factor: s; None: 0.
        pos_weight: factor of the positive part, broadcast to y_pred.

    Call: ``loss(y_pred, y_true)``, both of one shape (ValueError otherwise). The mean over nothing
    is NaN. RuntimeError: an integer target without smooth_factor. Reduced losses are native if each
    weight is one number per channel (the second dimension) or one for all.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.smooth_factor = smooth_factor
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred and y_true (*) -> scalar, or (*)."""
        term = self.term_of(y_pred, y_true)
        return self._composed(y_pred, y_true) if term is None else term.value()

    def term_of(self, y_pred: Tensor, y_true: Tensor) -> PixelTerm | None:
        """What `forward` computes, if that is native."""
        if y_true.shape != y_pred.shape:
            raise ValueError(
                f"y_true must have the shape of y_pred, {tuple(y_pred.shape)}, "
                f"got {tuple(y_true.shape)}"
            )
        if self.smooth_factor is None and not y_true.is_floating_point():
            raise RuntimeError(f"y_true must be floating point, got {y_true.dtype}")
        weights = (self.weight, self.pos_weight)
        native = self.reduction in ("mean", "sum") and y_pred.numel() > 0
        if not native or not all(w is None or _is_per_channel(w, y_pred) for w in weights):
            return None
        if y_pred.dim() < 2:
            y_pred, y_true = (x.reshape(1, 1, x.numel()) for x in (y_pred, y_true))
        channels = y_pred.shape[1]
        weight, pos_weight = (
            None if weight is None else weight.reshape(-1).expand(channels) for weight in weights
        )
        options = {
            "smoothing": 0.0 if self.smooth_factor is None else self.smooth_factor,
            "reduction": self.reduction,
            "avg_factor": y_pred.numel() if self.reduction == "mean" else None,
            "class_weight": weight,
            "pos_weight": pos_weight,
        }
        return native_term(
            "soft_bce", y_pred, y_true, "multilabel", options, ignore_index=self.ignore_index
        )

    def _composed(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        s = self.smooth_factor
        target = y_true if s is None else (1 - y_true) * s + y_true * (1 - s)
        loss = F.binary_cross_entropy_with_logits(
            y_pred, target, self.weight, pos_weight=self.pos_weight, reduction="none"
        )
        if self.ignore_index is not None:
            loss = torch.where(y_true != self.ignore_index, loss, 0)
        if self.reduction == "mean":
            return loss.mean()
        return loss.sum() if self.reduction == "sum" else loss


def _is_per_channel(weight: Tensor, y_pred: Tensor) -> bool:
    """Whether a constant weight is one number per channel of y_pred, or one for all."""
    if weight.requires_grad or not weight.is_floating_point() or weight.dim() > y_pred.dim():
        return False
    if weight.numel() == 1 or y_pred.dim() < 2:
        return weight.numel() == 1
    per_channel = (y_pred.shape[1],) + (1,) * (y_pred.dim() - 2)
    return tuple(weight.shape) in (per_channel, (1, *per_channel))
