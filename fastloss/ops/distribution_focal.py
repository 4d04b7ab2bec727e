"""Distribution focal loss of distances."""

from torch import Tensor

from .._library import register
from ..reference import distribution_focal as reference
from . import _arguments as check

_loss = register(
    "distribution_focal",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? avg_factor, float? divisor, "
    "str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits", "target", "weight"),
    check=reference.check,
)


def distribution_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Cross entropy of distributions over the integers 0 ... n with real numbers between them.

    With p = softmax(logits) and :math:`k = \lfloor t \rfloor` the loss of a row is

    .. math:: (k + 1 - t) (-\ln p_k) + (t - k) (-\ln p_{k+1})

    (Li et al., arXiv 2006.04388, Generalized Focal Loss), the cross entropy with the distribution
    that has all its mass on the two integers beside t, and the mean t.

    Args:
        logits: (N, n + 1), n >= 1, floating point.
        target: t, (N,), in [0, n), floating point, in any unit whose multiples the integers are (in
            detectors the distance from a point to a side of its box, in strides).
        weight: Of the rows; broadcasts to (N,).
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean" (the number of rows);
            nothing is added to it.

    Returns:
        A scalar, or (N,) for "none", in the common dtype of logits and target (float32 for half
        inputs under autocast). 0 for no rows. Differentiable in logits, target and weight.

    Raises:
        IndexError: a target outside [0, n), or NaN, on the CPU; on CUDA its loss is NaN.
        TypeError: an argument is not a tensor of such a dtype, or not a number.
        ValueError: wrong shape, device or reduction, negative avg_factor, or avg_factor with "sum".
    """
    check.floating("logits", logits)
    check.tensor_on("target", target, "logits", logits)
    check.floating("target", target)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"logits must have shape (N, n + 1) with n >= 1, got {tuple(logits.shape)}"
        )
    if target.shape != logits.shape[:1]:
        raise ValueError(
            f"target must have the shape of logits, {tuple(logits.shape)}, without its last "
            f"dimension, got {tuple(target.shape)}"
        )
    logits, target = check.promote(logits, target)
    weight = check.weight_like(weight, target.shape, "logits", logits)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "logits", logits)
    widen = check.under_autocast(logits)
    return _loss(logits, target, weight, avg_factor, divisor, reduction, widen)
