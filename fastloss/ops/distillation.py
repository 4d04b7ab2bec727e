"""Distillation of the classes of a teacher into a student."""

from torch import Tensor

from .._library import register
from ..reference import distillation as reference
from . import _arguments as check

_loss = register(
    "distillation",
    "(Tensor logits, Tensor teacher, Tensor? weight, Tensor? avg_factor, float temperature, "
    "float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits", "weight"),
)


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 10.0,
    weight: Tensor | None = None,
    reduction: str = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Kullback-Leibler divergence of a student's classes from a teacher's, both softened.

    With p = softmax(logits / T) and q = softmax(teacher_logits / T) the loss of a row is

    .. math:: \frac{T^2}{C} \sum_c q_c (\ln q_c - \ln p_c)

    (Hinton et al., arXiv 1503.02531; the mean over classes is that of mmdet). It is summed from
    terms that are all >= 0, so that it stays exact where student and teacher are nearly alike.

    Args:
        logits: Of the student, (N, C), floating point.
        teacher_logits: Of the teacher, (N, C), floating point; no gradient goes to them. -inf
            excludes a class.
        temperature: T > 0.
        weight: Of the rows; broadcasts to (N,).
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean" (the number of rows);
            nothing is added to it.

    Returns:
        A scalar, or (N,) for "none", in the dtype of the logits (float32 for half inputs under
        autocast). 0 for no rows. Differentiable in logits and weight.

    Raises:
        TypeError: an argument is not a tensor of such a dtype, or not a number.
        ValueError: wrong shape, device or reduction, a temperature that is not > 0, negative
            avg_factor, or avg_factor with "sum".
    """
    check.floating("logits", logits)
    check.tensor_on("teacher_logits", teacher_logits, "logits", logits)
    check.floating("teacher_logits", teacher_logits)
    check.same_shape("teacher_logits", teacher_logits, "logits", logits)
    if logits.dim() != 2 or not logits.shape[1]:
        raise ValueError(f"logits must have shape (N, C) with C >= 1, got {tuple(logits.shape)}")
    temperature = check.at_least("temperature", temperature, 0, strict=True)
    weight = check.weight_like(weight, logits.shape[:1], "logits", logits)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "logits", logits)
    widen = check.under_autocast(logits)
    return _loss(
        logits, teacher_logits.detach(), weight, avg_factor, temperature, divisor, reduction, widen
    )
