"""MCCLoss (smp 0.6.0, losses/mcc.py)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.loss import _Loss

from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat.smp.targets import native_term


class MCCLoss(_Loss):
    """1 - Matthews correlation coefficient of probabilities and a binary target, over the batch.

    Args:
        eps: added to each of the four sums (true and false, positives and negatives).

    Call: ``loss(y_pred, y_true)`` -> scalar; probabilities and target in [0, 1], (N, *) or
    (N, 1, *). RuntimeError: another number of targets.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """(N, *) or (N, 1, *), both -> scalar."""
        return self.term_of(y_pred, y_true).value()

    def term_of(self, y_pred: Tensor, y_true: Tensor) -> PixelTerm:
        """What `forward` computes."""
        if y_pred.numel() != y_true.numel():
            raise RuntimeError(
                f"y_true must have as many elements as y_pred, {tuple(y_pred.shape)}, "
                f"got {tuple(y_true.shape)}"
            )
        shape = (1, 1, y_pred.numel())
        y_pred, y_true = y_pred.reshape(shape), y_true.reshape(shape)
        return native_term("mcc", y_pred, y_true, "binary", {"eps": self.eps}, from_logits=False)
