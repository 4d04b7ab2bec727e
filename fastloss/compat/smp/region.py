"""DiceLoss, JaccardLoss, TverskyLoss (smp 0.6.0, losses/dice.py, jaccard.py, tversky.py).

Sums run over the batch and its pixels, class by class, with p the probability and t the target:
I = (sum p + sum t - sum |p - t|) / 2, which is sum p t only where p is 0 or 1, and the score is
(I + smooth) / max(I + alpha (sum p - I) + beta (sum t - I) + smooth, eps).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE
from fastloss.compat.smp.targets import WeightedLoss, native_term


class _RegionLoss(WeightedLoss):
    term: str

    def __init__(
        self,
        mode: str,
        classes: list[int] | None,
        log_loss: bool,
        from_logits: bool,
        smooth: float,
        ignore_index: int | None,
        eps: float,
        class_weights: list[float] | None,
    ) -> None:
        super().__init__(mode, class_weights, classes)
        self.from_logits = from_logits
        self.smooth = smooth
        self.eps = eps
        self.log_loss = log_loss
        self.ignore_index = ignore_index

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """y_pred and y_true as the mode has them -> scalar."""
        return self.term_of(y_pred, y_true).value()

    def term_of(self, y_pred: Tensor, y_true: Tensor) -> PixelTerm:
        """What `forward` computes."""
        if len(y_true) != len(y_pred):
            raise AssertionError(
                f"y_true must have the batch size of y_pred, {len(y_pred)}, got {len(y_true)}"
            )
        if self.mode == BINARY_MODE:
            y_pred = y_pred.reshape(len(y_pred), 1, y_pred.shape[1:].numel())
        y_true = self._target(y_pred, y_true)
        return native_term(
            self.term,
            y_pred,
            y_true,
            self.mode,
            {
                "smooth": self.smooth,
                "eps": self.eps,
                "log": bool(self.log_loss),
                "class_weight": self.weights_of(y_pred),
                **self._extra(),
            },
            ignore_index=self.ignore_index,
            from_logits=bool(self.from_logits),
        )

    def _extra(self) -> dict[str, Any]:
        return {}

    def _target(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """The target in the shape of y_pred, or of class ids (N, *)."""
        shape = y_pred.shape
        if self.mode == MULTICLASS_MODE:
            shape = shape[:1] + shape[2:]
            if y_true.is_floating_point() or y_true.dtype == torch.bool:
                if self.ignore_index is None:
                    raise RuntimeError(f"y_true must be integer class ids, got {y_true.dtype}")
                y_true = y_true.long()  # as smp does, with an ignore_index
        if y_true.numel() != shape.numel():
            error = AssertionError if self.ignore_index is None else RuntimeError
            raise error(f"y_true must have the shape {tuple(shape)}, got {tuple(y_true.shape)}")
        return y_true.reshape(shape)


class DiceLoss(_RegionLoss):
    """1 - Dice, with alpha = beta = 1/2 in the score; mean over classes.

    Args:
        mode: "binary", "multiclass" or "multilabel"; AssertionError for another.
        classes: class ids whose losses are averaged; default all. AssertionError with "binary".
        log_loss: -ln(max(score, eps)) instead of 1 - score.
        from_logits: False: y_pred holds probabilities.
        smooth: added to numerator and denominator of the score.
        ignore_index: label of pixels that count nothing.
        eps: lower bound of the denominator.
        class_weights: a weight per class: sum(w l) / sum(w). ValueError with "binary".

    Call: ``loss(y_pred, y_true)`` -> scalar. y_pred (N, C, *), or any (N, *) for "binary"; y_true
    (N, *) class ids, or numbers in [0, 1] as many as y_pred has. A class without target counts 0.
    AssertionError: another batch size. AssertionError, or RuntimeError with an ignore_index:
    another number of targets. RuntimeError: a class id out of range (on the CPU), float class ids
    without ignore_index, a wrong number of class weights. IndexError: `classes` out of range.
    An empty batch, which smp refuses, gives 0.
    """

    term = "dice"

    def __init__(
        self,
        mode: str,
        classes: list[int] | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(
            mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights
        )


class JaccardLoss(_RegionLoss):
    """1 - Jaccard index, with alpha = beta = 1 in the score; otherwise as `DiceLoss`."""

    term = "jaccard"

    def __init__(
        self,
        mode: str,
        classes: list[int] | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(
            mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights
        )


class TverskyLoss(DiceLoss):
    """`DiceLoss` with alpha for false positives and beta for false negatives, and the mean over
    classes raised to gamma (>= 0)."""

    term = "tversky"

    def __init__(
        self,
        mode: str,
        classes: list[int] | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        class_weights: list[float] | None = None,
    ) -> None:
        super().__init__(
            mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights
        )
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def _extra(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma}
