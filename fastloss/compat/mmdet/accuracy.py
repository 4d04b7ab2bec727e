"""accuracy and Accuracy (mmdet 3.3.0, losses/accuracy.py). Not in LOSSES, as in mmdet."""

from __future__ import annotations

from torch import Tensor, nn


def accuracy(
    pred: Tensor, target: Tensor, topk: int | tuple[int, ...] = 1, thresh: float | None = None
) -> Tensor | list[Tensor]:
    """Per cent of the rows whose target is among their k largest scores.

    Args:
        pred: scores (N, C).
        target: classes (N,), integer.
        topk: k, or several.
        thresh: a score has to exceed it as well.

    Returns:
        (1,) float32 for an int `topk`, a list of them for a tuple; without rows 0-d zeros in the
        dtype of `pred`. No gradient.

    AssertionError: topk is neither int nor tuple or exceeds C, or shapes that do not fit.
    """
    if not isinstance(topk, (int, tuple)):
        raise AssertionError(f"topk must be an int or a tuple, got {type(topk).__name__}")
    ks = topk if isinstance(topk, tuple) else (topk,)
    most = max(ks)
    if len(pred) == 0:
        found = [pred.new_zeros(()) for _ in ks]
    else:
        if pred.dim() != 2 or target.shape != pred.shape[:1]:
            raise AssertionError(
                "pred and target must have shapes (N, C) and (N,), "
                f"got {tuple(pred.shape)} and {tuple(target.shape)}"
            )
        if most > pred.shape[1]:
            raise AssertionError(f"topk must be at most {pred.shape[1]}, got {most}")
        # Also for one class: of equal scores `max` would choose another.
        scores, classes = pred.detach().topk(most, dim=1)  # (N, most) each
        correct = classes == target[:, None]
        if thresh is not None:
            correct = correct & (scores > thresh)
        hits = correct.float().sum(0)  # (most,): the target has one rank only
        found = [hits[:k].sum(0, keepdim=True) * (100.0 / len(pred)) for k in ks]
    return found if isinstance(topk, tuple) else found[0]


class Accuracy(nn.Module):
    """`accuracy` with its options as attributes.

    Args:
        topk, thresh: as there.

    Call: ``accuracy(pred, target)`` -> list of (1,) for the default, a tuple of one k.
    """

    def __init__(self, topk: int | tuple[int, ...] = (1,), thresh: float | None = None) -> None:
        super().__init__()
        self.topk = topk
        self.thresh = thresh

    def forward(self, pred: Tensor, target: Tensor) -> Tensor | list[Tensor]:
        """Scores (N, C), classes (N,) -> (1,) for each k."""
        return accuracy(pred, target, self.topk, self.thresh)
