"""Binary cross entropy with weights of positives and negatives for every class."""

import torch
from torch import Tensor

from .._library import register
from ..reference import equalization as reference
from ..reference._reduce import compute_dtype, result_dtype
from . import _arguments as check

_table = register(
    "equalization",
    "(Tensor logits, Tensor labels)",
    reference.forward,
    reference.backward,
    differentiable=("logits",),
    check=reference.check,
)


def equalization_loss(
    logits: Tensor,
    labels: Tensor,
    pos_weight: Tensor,
    neg_weight: Tensor,
    *,
    reduction: str = "mean",
    gradient_sums: bool = False,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    r"""Binary cross entropy of rows with one positive class each, weighted by class and by sign.

    .. math:: \frac{1}{N} \sum_c \left( w_c \sum_{i: y_i = c} -\ln p_{ic}
        + v_c \sum_{i: y_i \neq c} -\ln (1 - p_{ic}) \right), \quad p = \sigma(x)

    (the loss of equalization loss v2, Tan et al., arXiv 2012.08548, whose weights follow from the
    gradient sums of the steps before). The logits are read once each way and no one-hot is built.

    Args:
        logits: x, (N, C), floating point.
        labels: y, (N), integer class indices in [0, C).
        pos_weight, neg_weight: w and v, (C), floating point.
        reduction: "mean" (over rows) or "sum".
        gradient_sums: Also return what the gradients of each class add up to.

    Returns:
        A scalar in the dtype of the logits (float32 for half inputs under autocast), 0 without
        rows. With `gradient_sums` a tuple (loss, positive, negative); these are sums over the rows
        of w |p - 1| at positives and v p at negatives, (C), without a gradient, in float32 (float64
        for float64 logits). Differentiable in logits and weights.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or reduction.
        IndexError: a class index out of range on CPU or in debug mode. On CUDA the loss is NaN.
    """
    check.floating("logits", logits)
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape (N, C), got {tuple(logits.shape)}")
    check.tensor_on("labels", labels, "logits", logits)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must have shape ({len(logits)},), got {tuple(labels.shape)}")
    for name, weight in (("pos_weight", pos_weight), ("neg_weight", neg_weight)):
        check.floating(name, weight)
        check.tensor_on(name, weight, "logits", logits)
        if weight.shape != logits.shape[1:]:
            expected = tuple(logits.shape[1:])
            raise ValueError(f"{name} must have shape {expected}, got {tuple(weight.shape)}")
    check.choice("reduction", reduction, ("mean", "sum"))
    check.flag("gradient_sums", gradient_sums)
    table = _table(logits, labels.to(torch.int64))
    loss = (pos_weight * table[0] + neg_weight * table[1]).sum()
    if reduction == "mean":
        loss = loss / max(len(logits), 1)
    loss = loss.to(result_dtype(logits, check.under_autocast(logits)))
    if not gradient_sums:
        return loss
    weights, dtype = (pos_weight.detach(), neg_weight.detach()), compute_dtype(logits)
    positive, negative = ((w * x).to(dtype) for w, x in zip(weights, table.detach()[2:]))
    return loss, positive, negative
