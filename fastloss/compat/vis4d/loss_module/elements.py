"""An element-wise loss of two tensors, alone or together with others of the same two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastloss import functional
from fastloss.losses import RegressionLoss


class ElementTerm(NamedTuple):
    """One of the losses of `functional.regression_terms`."""

    kind: str
    pred: Tensor
    target: Tensor
    reduction: str
    beta: float = 1.0

    def reading(self) -> dict[str, Any]:
        """What terms need to have in common besides the two tensors: nothing."""
        return {}

    @staticmethod
    def together(terms: Sequence[ElementTerm]) -> list[Tensor]:
        """The losses of terms on the same tensors, from one read."""
        values = functional.regression_terms(
            terms[0].pred,
            terms[0].target,
            kinds=[term.kind for term in terms],
            beta=[term.beta for term in terms],
            reduction=[term.reduction for term in terms],
        )
        return list(values.unbind())


_KINDS = {nn.MSELoss: "mse", nn.L1Loss: "l1", nn.SmoothL1Loss: "smooth_l1"}


def torch_loss(loss: nn.Module, pred: Tensor, target: Tensor) -> ElementTerm | None:
    """MSELoss, L1Loss and SmoothL1Loss."""
    return _term(_KINDS[type(loss)], getattr(loss, "beta", 1.0), loss.reduction, pred, target)


def native_loss(loss: RegressionLoss, pred: Tensor, target: Tensor) -> ElementTerm | None:
    """fastloss.RegressionLoss."""
    return _term(loss.kind, loss.beta, loss.reduction, pred, target)


def _term(
    kind: str, beta: float, reduction: str, pred: Tensor, target: Tensor
) -> ElementTerm | None:
    reduced = reduction in ("mean", "sum") and kind in _KINDS.values()
    if not reduced or pred.shape != target.shape or not target.is_floating_point():
        return None
    if kind == "smooth_l1" and not beta > 0:  # torch: 0 is L1, less is an error
        return None
    return ElementTerm(kind, pred, target, reduction, float(beta))
