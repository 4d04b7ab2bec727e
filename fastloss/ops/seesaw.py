"""Seesaw loss of rows, for classes that are seen very unequally often."""

import torch
from torch import Tensor

from .._library import register
from ..reference import seesaw as reference
from . import _arguments as check
from . import _segmentation as segmentation

_loss = register(
    "seesaw",
    "(Tensor logits, Tensor target, Tensor class_count, Tensor? weight, Tensor? avg_factor, "
    "float p, float q, float eps, float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits", "weight"),
    check=reference.check,
)


def seesaw_loss(
    logits: Tensor,
    target: Tensor,
    class_count: Tensor,
    *,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 1e-2,
    weight: Tensor | None = None,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Seesaw loss: softmax cross entropy that spares rare classes.

    With n_j the number of times class j was seen, i the class of a row and s the softmax of its
    logits, without a gradient, its loss is

    .. math:: -\ln \frac{e^{x_i}}{e^{x_i} + \sum_{j \ne i} M_j C_j e^{x_j}}, \quad
        M_j = \min(1, n_j / n_i)^p, \quad C_j = \max(1, s_j / \max(s_i, \epsilon))^q

    (Wang et al., arXiv 2008.10032): a class much rarer than i is pushed down less, one that scores
    higher than i more. Neither factor is stored; a row is read once.

    Args:
        logits: (N, C), floating point; rows of a wider tensor, such as ``x[:, :-2]``, are read in
            place.
        target: Classes (N,) in [0, C), any integer dtype; C is background, which has the loss 0 and
            the gradient 0, whatever its logits.
        class_count: n, (C,), any real numbers; below 1 they count as 1.
        p: Exponent of the mitigation factor M; 0 or less: M = 1.
        q: Exponent of the compensation factor C; 0 or less: C = 1.
        eps: Least s_i that scores are compared with, > 0.
        weight: Of the rows; broadcasts to (N,).
        reduction: "none", "mean" or "sum"; "mean" divides by the number of rows that are not
            background (by 1 if there is none).
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean"; nothing is added to
            it.

    Returns:
        A scalar, or (N,) for "none", in the input's dtype (float32 for half inputs under autocast).
        Differentiable in logits and weight; no host reads.

    Raises:
        IndexError: a class out of range, on the CPU; on CUDA the loss is NaN.
        TypeError: an argument is not a tensor of such a dtype, or not a number.
        ValueError: wrong shape, device or reduction, negative avg_factor, avg_factor with "sum", or
            a class_count that requires a gradient.
    """
    check.floating("logits", logits)
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise ValueError(
            f"logits must have shape (N, C) with at least one class, got {tuple(logits.shape)}"
        )
    target = segmentation.class_indices(logits, target)
    check.tensor_on("class_count", class_count, "logits", logits)
    if class_count.shape != logits.shape[1:]:
        raise ValueError(
            f"class_count must have shape {tuple(logits.shape[1:])}, got {tuple(class_count.shape)}"
        )
    if class_count.requires_grad:
        raise ValueError("class_count has no gradient here: pass class_count.detach()")
    if class_count.dtype not in (torch.float32, torch.float64):
        class_count = class_count.double()
    p, q = check.number("p", p), check.number("q", q)
    eps = check.at_least("eps", eps, 0, strict=True)
    weight = check.weight_like(weight, logits.shape[:1], "logits", logits)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "logits", logits)
    if reduction == "mean" and avg_factor is None and divisor is None:
        count = (target != logits.shape[1]).sum(dtype=torch.float64)
        avg_factor = count.clamp(min=1)
    widen = check.under_autocast(logits)
    options = (p, q, eps, divisor, reduction, widen)
    return _loss(logits, target, class_count, weight, avg_factor, *options)
