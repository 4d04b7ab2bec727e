"""FocalLoss (smp 0.6.0, losses/focal.py): a binary focal loss for every class."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat.smp._functional import focal_loss_with_logits
from fastloss.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE
from fastloss.compat.smp.targets import WeightedLoss, native_term


class FocalLoss(WeightedLoss):
    """Focal loss of sigmoids, also in mode "multiclass", where the target of class c is
    ``y_true == c``; mean over pixels, then mean over classes.

    Args:
        mode: "binary", "multiclass" or "multilabel"; AssertionError for another.
        alpha: weight of positives, 1 - alpha that of negatives; None: no balancing.
        gamma: exponent of the modulating factor, >= 0.
        ignore_index: label of pixels that are left out. With "multilabel" an IndexError at the
            call, as in smp.
        from_logits: False: y_pred holds probabilities, clamped to [eps, 1 - eps], and the logit is
            ln(p / (1 - p)), or ln p with "multiclass".
        eps: that bound.
        reduction: over the pixels of a class: "mean", "sum", "batchwise_mean" (in truth a sum over
            the batch) or "none". Over what is left, and over the classes, smp takes the mean; only
            "binary" returns the vector of the pixels that are kept, for "none".
        normalized: divide by max(sum of the modulating factors of a class, 1e-6).
        reduced_threshold: h of `focal_loss_with_logits`.
        class_weights: a weight per class: sum(w l) / sum(w). ValueError with "binary".

    Call: ``loss(y_pred, y_true)``. y_pred (N, C, *) and y_true (N, *) class ids or (N, C, *); any
    shape for "binary". Labels that are no class are background of every class. The mean over no
    pixels is NaN. ValueError (IndexError with an ignore_index): shapes do not fit.
    RuntimeError: class_weights where smp's result has more than one value per class (smp
    multiplies the last dimension if its size happens to be the number of classes).

    Mode "binary" with reduction "none" and an ignore_index has a result whose shape depends on the
    target: this call waits for the device.
    """

    def __init__(
        self,
        mode: str,
        alpha: float | None = None,
        gamma: float | None = 2.0,
        ignore_index: int | None = None,
        from_logits: bool = True,
        eps: float = 1e-7,
        reduction: str | None = "mean",
        normalized: bool = False,
        reduced_threshold: float | None = None,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(mode, class_weights)
        self.from_logits = from_logits
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.eps = eps
        self.focal_loss_fn = partial(
            focal_loss_with_logits,
            alpha=alpha,
            gamma=gamma,
            reduced_threshold=reduced_threshold,
            reduction=reduction,
            normalized=normalized,
        )

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred and y_true as the mode has them -> scalar; (pixels,) for "binary" and "none"."""
        term = self.term_of(y_pred, y_true)
        if term is not None:
            return term.value()
        y_pred, y_true = self._logits(y_pred).reshape(-1), y_true.reshape(-1)
        if self.ignore_index is not None:
            kept = y_true != self.ignore_index
            y_pred, y_true = y_pred[kept], y_true[kept]
        return self.focal_loss_fn(y_pred, y_true)

    def term_of(self, y_pred: Tensor, y_true: Tensor) -> PixelTerm | None:
        """What `forward` computes; None if it returns the loss of every pixel."""
        y_pred = self._logits(y_pred)
        if self.mode == BINARY_MODE:
            return self._binary(y_pred, y_true)
        return self._classes(y_pred, y_true)

    def _logits(self, y_pred: Tensor) -> Tensor:
        if self.from_logits:
            return y_pred
        y_pred = y_pred.clamp(self.eps, 1 - self.eps)
        if self.mode != MULTICLASS_MODE:
            y_pred = y_pred / (1 - y_pred)
        return y_pred.log()

    def _binary(self, y_pred: Tensor, y_true: Tensor) -> PixelTerm | None:
        reduction = self.focal_loss_fn.keywords["reduction"]
        # As (N, 1, pixels), the form of the region losses, so that they can share a read.
        images = max(len(y_pred), 1) if y_pred.dim() > 1 else 1
        shape = (images, 1, y_pred.numel() // images)
        y_pred, y_true = y_pred.reshape(-1), y_true.reshape(-1)
        self._check_shape(y_pred.shape, y_true)
        if reduction not in ("mean", "sum", "batchwise_mean"):
            return None
        return self._native(
            y_pred.reshape(shape), y_true.reshape(shape), "mean" if reduction == "mean" else "sum"
        )

    def _classes(self, y_pred: Tensor, y_true: Tensor) -> PixelTerm:
        reduction, divisor = self.focal_loss_fn.keywords["reduction"], None
        one_value = reduction in ("mean", "sum")
        if self.mode == MULTICLASS_MODE:
            self._check_shape(y_pred.shape[:1] + y_pred.shape[2:], y_true)
            y_true = y_true.long() if y_true.is_floating_point() else y_true
        else:
            if self.ignore_index is not None:
                raise IndexError('ignore_index can not be used with mode="multilabel"')
            self._check_shape(y_pred.shape, y_true)
        if reduction == "batchwise_mean":
            # smp drops ignored pixels first, so that only the classes are left to be averaged.
            divisor = 1 if self.ignore_index is not None else math.prod(y_pred.shape[2:])
            one_value = self.ignore_index is not None or y_pred.dim() == 2
        if self.class_weights is not None and not one_value:
            raise RuntimeError(f'class_weights need reduction "mean" or "sum", got {reduction!r}')
        return self._native(y_pred, y_true, "sum" if reduction == "sum" else "mean", divisor)

    def _native(
        self, y_pred: Tensor, y_true: Tensor, reduction: str, avg_factor: int | None = None
    ) -> PixelTerm:
        term = {
            **self.focal_loss_fn.keywords,
            "reduction": reduction,
            "avg_factor": avg_factor,
            "empty": math.nan,
            "class_weight": self.weights_of(y_pred),
        }
        options = {"ignore_index": self.ignore_index, "strict": False}
        return native_term("sigmoid_focal", y_pred, y_true, self.mode, term, **options)

    def _check_shape(self, shape: torch.Size, y_true: Tensor) -> None:
        if y_true.shape != shape:
            error = ValueError if self.ignore_index is None else IndexError
            raise error(f"y_true must have the shape {tuple(shape)}, got {tuple(y_true.shape)}")
