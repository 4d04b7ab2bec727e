"""Element-wise regression losses: L1, smooth L1, squared error."""

from torch import Tensor

from .._library import register
from ..reference import regression_loss as reference
from . import _arguments as check

_loss = register(
    "regression_loss",
    "(Tensor pred, Tensor target, Tensor? weight, Tensor? avg_factor, str kind, float beta, "
    "float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("pred", "target", "weight"),
)


def regression_loss(
    pred: Tensor,
    target: Tensor,
    *,
    kind: str = "smooth_l1",
    beta: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Element-wise loss of d = pred - target, weighted and reduced in one pass.

    Formulas: "l1" :math:`|d|`; "smooth_l1" :math:`d^2 / (2 \beta)` where :math:`|d| < \beta`, else
    :math:`|d| - \beta / 2` (Girshick, arXiv 1504.08083); "mse" :math:`d^2`.

    Args:
        pred: Any shape, floating point.
        target: The shape of `pred`. Different floating dtypes are promoted to their common one.
        kind: "l1", "smooth_l1" or "mse".
        beta: Where smooth L1 turns from square to linear, > 0.
        weight: Broadcasts to the shape of `pred`.
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean" (the number of
            elements); nothing is added to it.

    Returns:
        A scalar, or the shape of `pred` for "none", in the input's dtype (float32 for half inputs
        under autocast). 0 for empty inputs. Differentiable in pred, target and weight.

    Raises:
        TypeError: an argument is not a floating-point tensor, or not a number.
        ValueError: wrong shape, device, kind or reduction, beta <= 0, negative avg_factor, or
            avg_factor with "sum".
    """
    check.choice("kind", kind, reference.KINDS)
    check.floating("pred", pred)
    check.floating("target", target)
    check.tensor_on("target", target, "pred", pred)
    check.same_shape("target", target, "pred", pred)
    beta = check.at_least("beta", beta, 0, strict=True)
    weight = check.weight_like(weight, pred.shape, "pred", pred)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "pred", pred)
    pred, target = check.promote(pred, target)
    widen = check.under_autocast(pred)
    return _loss(pred, target, weight, avg_factor, kind, beta, divisor, reduction, widen)
