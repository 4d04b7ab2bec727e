"""SoftCrossEntropyLoss (smp 0.6.0, losses/soft_ce.py)."""

from __future__ import annotations

from torch import Tensor, nn

from fastloss import functional
from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat.smp.targets import native_term


class SoftCrossEntropyLoss(nn.Module):
    """Softmax cross entropy with label smoothing: (1 - s) nll + s / C sum(-ln p) per pixel.

    Args:
        reduction: "mean" over all pixels, ignored ones included; "sum"; any other string for none.
        smooth_factor: s in [0, 1]; None: 0 (smp raises TypeError).
        ignore_index: label of pixels with loss 0; None: no such label.
        dim: the dimension of the classes.

    Call: ``loss(y_pred, y_true)``. y_pred (N, C, *), y_true class ids (N, *) or (N, 1, *). Without
    reduction (N, 1, *) if ignore_index is given, and (N, *) otherwise. The mean over no pixels is
    NaN. RuntimeError: a label out of range (on the CPU), or another shape.
    """

    def __init__(
        self,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        ignore_index: int | None = -100,
        dim: int = 1,
    ) -> None:
        super().__init__()
        self.smooth_factor = smooth_factor
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.dim = dim

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """(N, C, *) and (N, *) -> scalar, (N, 1, *) or (N, *)."""
        y_true = self._labels(y_pred, y_true)
        reduction = self.reduction if self.reduction in ("mean", "sum") else "none"
        try:
            loss = functional.cross_entropy(
                *self._one_image(y_pred, y_true),
                label_smoothing=self._smoothing(),
                ignore_index=self.ignore_index,
                reduction=reduction,
                avg_factor=y_true.numel() if reduction == "mean" else None,
            )
        except IndexError as error:
            raise RuntimeError(str(error)) from error
        return loss.reshape(self._shape(y_true)) if reduction == "none" else loss

    def term_of(self, y_pred: Tensor, y_true: Tensor) -> PixelTerm | None:
        """What `forward` computes, as a term of a sum; None if it returns losses of pixels."""
        if self.reduction not in ("mean", "sum"):
            return None
        y_true = self._labels(y_pred, y_true)
        options = {
            "label_smoothing": self._smoothing(),
            "reduction": self.reduction,
            "avg_factor": y_true.numel() if self.reduction == "mean" else None,
        }
        logits, labels = self._one_image(y_pred, y_true)
        return native_term(
            "cross_entropy", logits, labels, "multiclass", options, ignore_index=self.ignore_index
        )

    def _smoothing(self) -> float:
        return 0.0 if self.smooth_factor is None else self.smooth_factor

    def _labels(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """(N, *), without the dimension of the classes."""
        if y_true.dim() == y_pred.dim():
            y_true = y_true.squeeze(self.dim)
        shape = y_pred.movedim(self.dim, 0).shape[1:]
        if y_true.shape != shape:
            raise RuntimeError(
                f"y_true must have the shape of y_pred without its classes, "
                f"{tuple(shape)}, got {tuple(y_true.shape)}"
            )
        return y_true

    def _one_image(self, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
        """Classes in the second dimension; as one image (1, C, *) where they are in another."""
        if self.dim in (1, 1 - y_pred.dim()) and y_pred.dim() > 1:
            return y_pred, y_true
        return y_pred.movedim(self.dim, 0)[None], y_true[None]

    def _shape(self, y_true: Tensor) -> tuple[int, ...]:
        keep = self.ignore_index is not None
        return y_true.unsqueeze(self.dim).shape if keep else y_true.shape
