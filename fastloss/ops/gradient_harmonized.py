"""Losses whose gradients are harmonized: every length of gradient counts as much as any other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._library import register
from ..reference import gradient_harmonized as reference
from ..reference._reduce import result_dtype
from . import _arguments as check

_table = register(
    "gradient_harmonized",
    "(Tensor pred, Tensor target, Tensor? weight, Tensor edges, str kind, float mu)",
    reference.forward,
    reference.backward,
    differentiable=("pred", "target"),
)


def checked(
    pred: Tensor, target: Tensor, weight: Tensor | None, kind: str, name: str = "pred"
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors as the op takes them."""
    check.floating(name, pred)
    check.tensor_on("target", target, name, pred)
    if kind == "classification" and target.dim() == pred.dim() - 1:
        if target.shape != pred.shape[:-1]:
            expected = tuple(pred.shape[:-1])
            raise ValueError(
                f"target class indices must have shape {expected}, got {tuple(target.shape)}"
            )
        if target.is_floating_point() or target.dtype == torch.bool:
            raise TypeError(f"target class indices must be integers, got {target.dtype}")
        target = target.to(torch.int64)
    else:
        check.same_shape("target", target, name, pred)
        if target.dtype in check.FLOATING:
            pred, target = check.promote(pred, target)
        else:
            target = target.to(pred.dtype)
    weight = check.weight_like(weight, pred.shape, name, pred)
    return pred, target, None if weight is None else weight.detach()


def harmonized_table(
    pred: Tensor, target: Tensor, weight: Tensor | None, edges: Tensor, kind: str, mu: float
) -> tuple[Tensor, Tensor]:
    """Counts and sums of losses of the bins between `edges` (B + 1), and of the elements in none:
    (B + 1) each, float64. The counts have no gradient."""
    table = _table(pred, target, weight, edges, kind, mu)
    return table.detach()[0], table[1]


def bin_weights(counts: Tensor, of_bins: Tensor) -> Tensor:
    """(B + 1) float64 from counts (B + 1) and weights (B): divided by the number of bins with
    elements; 0 for the others and for what is in no bin."""
    present = counts[:-1] > 0
    weights = torch.where(present, of_bins.double(), 0) / present.sum().clamp(min=1)
    return F.pad(weights, (0, 1))


def weighted_elements(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    edges: Tensor,
    weights: Tensor,  # (B + 1)
    kind: str,
    mu: float,
) -> Tensor:
    """The loss of every element times the weight of its bin, in the shape of pred; 0 where invalid.
    Not fused: it is for looking at, not for training."""
    x, t, valid = reference.prepare(pred, target, weight)
    x, t = x.contiguous(), t.contiguous()  # the same bits for every layout
    k = reference.bin_of(reference.length(x.detach(), t.detach(), kind, mu)[0], edges)
    factor = torch.where(valid, weights.to(x.dtype)[k], 0)
    return factor * reference.element_loss(x, t, kind, mu)


def _harmonized(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    bins: int,
    last: float,
    kind: str,
    mu: float,
    reduction: str,
    name: str,
) -> Tensor:
    check.choice("reduction", reduction, check.REDUCTIONS)
    if not isinstance(bins, int) or isinstance(bins, bool):
        raise TypeError(f"bins must be an integer, got {type(bins).__name__}")
    check.at_least("bins", bins, 1)
    pred, target, weight = checked(pred, target, weight, kind, name)
    edges = torch.arange(bins + 1, dtype=torch.float32, device=pred.device) / bins
    edges = torch.where(edges == 1, last, edges)
    read = pred.detach() if reduction == "none" else pred
    counts, sums = harmonized_table(read, target, weight, edges, kind, mu)
    weights = bin_weights(counts, counts[:-1].reciprocal())
    weights = weights if reduction == "mean" else weights * counts.sum()
    if reduction == "none":
        loss = weighted_elements(pred, target, weight, edges, weights, kind, mu)
    else:
        loss = weights.dot(sums)
    return loss.to(result_dtype(pred, check.under_autocast(pred)))


def ghm_classification_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    bins: int = 10,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross entropy with harmonized gradients (GHM-C).

    Elements are put into `bins` equal intervals by the length of their gradient,
    :math:`g = |\sigma(x) - t|`. With R_b elements in bin b, n bins that have any, and N elements in
    all, an element has the weight :math:`N / (n R_b)`: the many easy ones and the outliers count
    together as much as each other kind. Source: Li et al., arXiv 1811.05181. The logits are read
    once each way, nothing is stored, and the host does not wait.

    Args:
        logits: Any shape with a dense target, (*, C) with class indices; floating point.
        target: Dense values in [0, 1] of the same shape (any dtype), or integer class indices (*);
            no one-hot is built, and an index outside of [0, C) is background.
        weight: Elements are valid where it is > 0; its size does not count. Broadcasts to the shape
            of `logits`; default: all valid.
        bins: The number of intervals of [0, 1], >= 1.
        reduction: "mean" (over the N valid elements), "sum", or "none" (plain torch).

    Returns:
        A scalar, or the shape of `logits` for "none", in the input's dtype (float32 for half inputs
        under autocast). 0 if nothing is valid. Differentiable in logits and dense target.

    Raises:
        TypeError, ValueError: wrong dtype, shape, device, reduction or bins.
    """
    # The last edge is above 1, so that the last bin has g = 1 too.
    options = (bins, 1 + 1e-6, "classification", 0.0, reduction, "logits")
    return _harmonized(logits, target, weight, *options)


def ghm_regression_loss(
    pred: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mu: float = 0.02,
    bins: int = 10,
    reduction: str = "mean",
) -> Tensor:
    r"""Authentic smooth L1 with harmonized gradients (GHM-R), :math:`\sqrt{d^2 + \mu^2} - \mu`.

    Weights are those of `ghm_classification_loss`, with the gradient length
    :math:`g = |d| / \sqrt{d^2 + \mu^2}` of d = pred - target.

    Args:
        pred: Any shape, such as box deltas (N, 4); floating point.
        target: The same shape.
        weight: Elements are valid where it is > 0; broadcasts to the shape of `pred`.
        mu: Where the loss turns from a parabola to a line, in the unit of pred; > 0.
        bins, reduction: As `ghm_classification_loss`.

    Returns:
        As `ghm_classification_loss`. Raises likewise, and ValueError unless mu > 0.
    """
    mu = check.at_least("mu", mu, 0, strict=True)
    return _harmonized(pred, target, weight, bins, 1e3, "regression", mu, reduction, "pred")
