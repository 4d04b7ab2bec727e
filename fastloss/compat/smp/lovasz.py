"""LovaszLoss (smp 0.6.0, losses/lovasz.py)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from fastloss import functional
from fastloss.compat.smp.constants import MULTICLASS_MODE
from fastloss.compat.smp.targets import check_mode


class LovaszLoss(_Loss):
    """Lovász-Softmax for "multiclass", the mean over the classes present; Lovász hinge for "binary"
    and "multilabel", over all values at once, not class by class.

    Args:
        mode: "binary", "multiclass" or "multilabel"; AssertionError for another.
        per_image: the mean of a loss per image, instead of one for all pixels of the batch.
        ignore_index: label of pixels that count nothing.
        from_logits: not used, as in smp: y_pred holds logits.

    Call: ``loss(y_pred, y_true)`` -> scalar. "multiclass": y_pred (N, C, *) with C > 1 (ValueError
    otherwise) and class ids (N, *); labels that are no class are background of every class. Else
    any two shapes with as many values. RuntimeError, or IndexError with an ignore_index: another
    number of them.

    Departures: float64 works; nothing valid gives 0 with a graph (smp: an empty tensor or the
    number 0), also for an image among others; (N, C, L) works in mode "multiclass" (smp takes its
    classes for rows of pixels); half precision keeps its dtype in modes "binary" and "multilabel".
    """

    def __init__(
        self,
        mode: str,
        per_image: bool = False,
        ignore_index: int | None = None,
        from_logits: bool = True,
    ) -> None:
        super().__init__()
        self.mode = check_mode(mode)
        self.ignore_index = ignore_index
        self.per_image = per_image

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred and y_true as the mode has them -> scalar."""
        options = {"per_image": bool(self.per_image), "ignore_index": self.ignore_index}
        if self.mode == MULTICLASS_MODE:
            if y_pred.shape[1] == 1:
                raise ValueError('mode="multiclass" needs more than one class')
            labels = self._reshape(y_true, (len(y_pred), *y_pred.shape[2:]))
            if labels.is_floating_point() or labels.dtype == torch.bool:
                labels = labels.long()
            return functional.lovasz_softmax(y_pred, labels, strict=False, **options)
        if self.per_image:
            pixels = (len(y_pred), y_pred.shape[1:].numel())
        else:
            pixels = (1, y_pred.numel())
        return functional.lovasz_hinge(
            y_pred.reshape(pixels), self._reshape(y_true, pixels), **options
        )

    def _reshape(self, y_true: Tensor, shape: tuple[int, ...]) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        if y_true.numel() != count:
            error = RuntimeError if self.ignore_index is None else IndexError
            raise error(f"y_true must have {count} elements, got {tuple(y_true.shape)}")
        return y_true.reshape(shape)
