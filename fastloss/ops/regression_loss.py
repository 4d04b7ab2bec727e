"""Element-wise regression losses: L1, smooth L1, squared error, balanced L1."""

from torch import Tensor

from .._library import register
from ..reference import regression_loss as reference
from . import _arguments as check

_loss = register(
    "regression_loss",
    "(Tensor pred, Tensor target, Tensor? weight, Tensor? avg_factor, str kind, float beta, "
    "float alpha, float gamma, float? divisor, str reduction, bool widen)",
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
    alpha: float = 0.5,
    gamma: float = 1.5,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Element-wise loss of d = pred - target, weighted and reduced in one pass.

    Formulas: "l1" :math:`|d|`; "smooth_l1" :math:`d^2 / (2 \beta)` where :math:`|d| < \beta`, else
    :math:`|d| - \beta / 2` (Girshick, arXiv 1504.08083); "mse" :math:`d^2`;
    "balanced_l1" :math:`\frac{\alpha}{b} (b |d| + 1) \ln(b |d| / \beta + 1) - \alpha |d|` where
    :math:`|d| < \beta`, else :math:`\gamma |d| + \gamma / b - \alpha \beta`, with
    :math:`b = e^{\gamma / \alpha} - 1` (Pang et al., arXiv 1904.02701).

    Args:
        pred: Any shape, floating point.
        target: The shape of `pred`. Different floating dtypes are promoted to their common one.
        kind: "l1", "smooth_l1", "mse" or "balanced_l1".
        beta: Where smooth L1 turns from square to linear, and balanced L1 to linear, > 0.
        alpha: For balanced L1: the smaller, the larger the gradient of small differences; > 0.
        gamma: For balanced L1: the gradient of large differences, > 0 and <= 80 alpha.
        weight: Broadcasts to the shape of `pred`.
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean" (the number of
            elements); nothing is added to it.

    Returns:
        A scalar, or the shape of `pred` for "none", in the input's dtype (float32 for half inputs
        under autocast). 0 for empty inputs. Differentiable in pred, target and weight.

    Raises:
        TypeError: an argument is not a floating-point tensor, or not a number.
        ValueError: wrong shape, device, kind or reduction, beta, alpha or gamma <= 0,
            gamma > 80 alpha, negative avg_factor, or avg_factor with "sum".
    """
    check.choice("kind", kind, reference.KINDS)
    check.floating("pred", pred)
    check.floating("target", target)
    check.tensor_on("target", target, "pred", pred)
    check.same_shape("target", target, "pred", pred)
    beta = check.at_least("beta", beta, 0, strict=True)
    alpha = check.at_least("alpha", alpha, 0, strict=True)
    gamma = check.at_least("gamma", gamma, 0, strict=True)
    if gamma > 80 * alpha:  # e^(gamma / alpha) has to fit float32
        raise ValueError(f"gamma must be <= 80 * alpha, {80 * alpha:g}, got {gamma}")
    weight = check.weight_like(weight, pred.shape, "pred", pred)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "pred", pred)
    pred, target = check.promote(pred, target)
    widen = check.under_autocast(pred)
    options = (kind, beta, alpha, gamma)
    return _loss(pred, target, weight, avg_factor, *options, divisor, reduction, widen)
