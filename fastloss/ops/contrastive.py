"""Contrastive losses of similarities."""

import torch
from torch import Tensor

from .._library import register
from ..reference import contrastive as reference
from . import _arguments as check
from ._segmentation import INDEX_DTYPES

_loss = register(
    "contrastive",
    "(Tensor logits, Tensor target, Tensor? weight, Tensor? avg_factor, bool others, "
    "float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("logits", "weight"),
)


def multi_positive_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    others_in_both: bool = False,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    r"""Cross entropy of rows of similarities that may have several positives each.

    With the positives P and the negatives Q of a row its loss is

    .. math:: \ln \left(1 + \sum_{p \in P} \sum_{q \in Q} e^{x_q - x_p}\right)
        = \mathrm{softplus}\left(\ln \sum_{q \in Q} e^{x_q} + \ln \sum_{p \in P} e^{-x_p}\right)

    (Pang et al., arXiv 2006.06664, QDTrack). Time is that of reading M similarities a row, not of
    its pairs of positives and negatives, and nothing is stored but the gradient. Similarities may
    be of any size.

    Args:
        logits: Similarities, (N, M), floating point.
        target: (N, M), bool or any numbers: 1 is a positive pair, 0 a negative one; pairs with
            another target take no part.
        weight: Of the rows; broadcasts to (N,).
        others_in_both: Pairs whose target is neither 0 nor 1 are positives and negatives at once,
            with a similarity of 0 and without a gradient, as in vis4d.
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean" (the number of rows);
            nothing is added to it.

    Returns:
        A scalar, or (N,) for "none", in the input's dtype (float32 for half inputs under autocast).
        0 for a row without positives or without negatives, and for no rows. Differentiable in
        logits and weight.

    Raises:
        TypeError: an argument is not a tensor of such a dtype, not a number, or not a bool.
        ValueError: wrong shape, device or reduction, negative avg_factor, or avg_factor with "sum".
    """
    check.floating("logits", logits)
    check.tensor_on("target", target, "logits", logits)
    check.same_shape("target", target, "logits", logits)
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape (N, M), got {tuple(logits.shape)}")
    check.flag("others_in_both", others_in_both)
    weight = check.weight_like(weight, logits.shape[:1], "logits", logits)
    avg_factor, divisor = check.divisor(reduction, avg_factor, "logits", logits)
    if target.dtype not in (torch.bool, *INDEX_DTYPES, *check.FLOATING):
        target = target.double()
    widen = check.under_autocast(logits)
    options = (others_in_both, divisor, reduction, widen)
    return _loss(logits, target.detach(), weight, avg_factor, *options)
