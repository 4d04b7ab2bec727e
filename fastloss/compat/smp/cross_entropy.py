"""SoftCrossEntropyLoss (smp 0.6.0, losses/soft_ce.py)."""

from __future__ import annotations

from torch import Tensor, nn

from fastloss import functional
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
        if y_true.dim() == y_pred.dim():
            y_true = y_true.squeeze(self.dim)
        y_pred = y_pred.movedim(self.dim, 0)
        if y_true.shape != y_pred.shape[1:]:
            raise RuntimeError(
                f"y_true must have the shape of y_pred without its classes, "
                f"{tuple(y_pred.shape[1:])}, got {tuple(y_true.shape)}"
            )
        # As one image (1, C, *) where the classes are not in the second dimension.
        first = self.dim in (1, 1 - y_pred.dim()) and y_pred.dim() > 1
        y_pred, labels = (y_pred.movedim(0, 1), y_true) if first else (y_pred[None], y_true[None])
        smoothing = 0.0 if self.smooth_factor is None else self.smooth_factor
        if self.reduction not in ("mean", "sum"):
            return self._unreduced(y_pred, labels, smoothing).reshape(self._shape(y_true))
        return native_term(
            "cross_entropy",
            y_pred,
            labels,
            "multiclass",
            {
                "label_smoothing": smoothing,
                "reduction": self.reduction,
                "avg_factor": y_true.numel() if self.reduction == "mean" else None,
            },
            ignore_index=self.ignore_index,
        )

    def _unreduced(self, y_pred: Tensor, y_true: Tensor, smoothing: float) -> Tensor:
        try:
            return functional.cross_entropy(
                y_pred,
                y_true,
                label_smoothing=smoothing,
                ignore_index=self.ignore_index,
                reduction="none",
            )
        except IndexError as error:
            raise RuntimeError(str(error)) from error

    def _shape(self, y_true: Tensor) -> tuple[int, ...]:
        keep = self.ignore_index is not None
        return y_true.unsqueeze(self.dim).shape if keep else y_true.shape
