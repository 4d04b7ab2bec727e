"""Distances of embeddings against what they shall be, with hard negative mining."""

import torch
from torch import Tensor

from .._library import register
from ..reference import embedding_distance as reference
from . import _arguments as check
from .hard_negative_mask import hard_negative_mask

_negatives = register(
    "embedding_distance_negatives",
    "(Tensor pred, Tensor target, Tensor? weight, float neg_margin, float neg_pos_ub, "
    "float min_count, float min_positives)",
    reference.negatives,
    returns="(Tensor, Tensor, Tensor, Tensor)",
)
_loss = register(
    "embedding_distance",
    "(Tensor pred, Tensor target, Tensor? weight, Tensor? kept, Tensor? avg_factor, "
    "float pos_margin, float neg_margin, float? divisor, str reduction, bool widen)",
    reference.forward,
    reference.backward,
    differentiable=("pred", "weight"),
)


def embedding_distance(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    neg_pos_ub: float = 3.0,
    pos_margin: float = 0.0,
    neg_margin: float = 0.3,
    hard_mining: bool = True,
    reduction: str = "mean",
    avg_factor: float | Tensor | None = None,
    min_count: float = 1.0,
    min_positives: float = 1.0,
    count_eps: float = 0.0,
) -> Tensor:
    r"""Squared error of the similarities of pairs of embeddings, of which few are negatives.

    With the margin :math:`m` of the pair's kind, 0 for a pair that is neither, the loss of a pair
    is

    .. math:: (\min(\max(x - m, 0), 1) - t)^2

    and "mean" divides the weighted sum by the number of pairs that count: those with a weight
    above 0, without the negatives beyond ``neg_pos_ub`` for each positive. As in vis4d's
    `EmbeddingDistanceLoss`, for tracking with QDTrack; but nothing given is written to, nothing is
    read on the host, and no pair is sorted. Edge rules: `fastloss/reference/embedding_distance.py`.

    Args:
        pred: Similarities, any shape, floating point.
        target: The shape of `pred`, bool or any numbers; 1 is a positive pair, 0 a negative one.
        weight: Broadcasts to the shape of `pred`. A pair whose weight is not above 0 is invalid:
            it is neither positive nor negative, and its target counts as -1.
        neg_pos_ub: Most negatives for each positive, rounded down in total; 0 or less: no limit.
        pos_margin, neg_margin: Subtracted from positives and from negatives where above 0.
        hard_mining: Keep the negatives with the largest loss, of equal ones the first in row-major
            order; False: random ones, by torch's generator of the device.
        reduction: "none", "mean" or "sum".
        avg_factor: Number or 0-d tensor that replaces the divisor of "mean".
        min_count: Least divisor of "mean", >= 0; with 0 the mean over no counting pair is NaN, or
            infinite where weights are below 0.
        min_positives: Least number of positives that `neg_pos_ub` counts, >= 0; with 0 no negative
            is kept where there is no positive, as in mmdet.
        count_eps: Added in float32 to the number of pairs that count, >= 0, as in mmdet.

    Returns:
        A scalar, or the shape of `pred` for "none", in the input's dtype (float32 for half inputs
        under autocast). 0 for empty inputs. Differentiable in pred and weight; the choice of
        negatives has no gradient.

    Raises:
        TypeError: an argument is not a tensor of such a dtype, not a number, or not a bool.
        ValueError: wrong shape, device or reduction, a target that requires a gradient, negative
            avg_factor, min_count, min_positives or count_eps, or avg_factor with "sum".
    """
    pred, target, weight, margins = _checked(pred, target, weight, pos_margin, neg_margin)
    given, divisor = check.divisor(reduction, avg_factor, "pred", pred)
    least = check.at_least("min_count", min_count, 0)
    eps = check.at_least("count_eps", count_eps, 0)
    mining = (neg_pos_ub, hard_mining, least, min_positives)
    kept, left = _mined(pred, target, weight, margins[1], *mining)
    if avg_factor is None and reduction == "mean":
        given = left.float() + eps if eps else left
    options = (*margins, divisor, reduction, check.under_autocast(pred))
    return _loss(pred, target, weight, kept, given, *options)


def mined_weight(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    neg_pos_ub: float = 3.0,
    pos_margin: float = 0.0,
    neg_margin: float = 0.3,
    hard_mining: bool = True,
    min_positives: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `embedding_distance` computes its loss from: the predictions less their margins, in
    [0, 1]; the weights, 0 for the negatives that are not kept; and how many of them are above 0,
    a 0-d tensor. Arguments as there; differentiable in pred and weight."""
    pred, target, weight, margins = _checked(pred, target, weight, pos_margin, neg_margin)
    mining = (neg_pos_ub, hard_mining, 0.0, min_positives)
    kept, left = _mined(pred, target, weight, margins[1], *mining)
    positive, negative, _ = reference.roles(pred, target, weight)
    inside = reference.shifted(pred, positive, negative, *margins).clamp(0, 1)
    weight = torch.ones_like(pred) if weight is None else weight
    if kept is not None:
        weight = torch.where(negative & ~kept, 0, weight)
    return inside, weight, left


def _checked(
    pred: Tensor, target: Tensor, weight: Tensor | None, pos_margin: float, neg_margin: float
) -> tuple[Tensor, Tensor, Tensor | None, tuple[float, float]]:
    """The tensors as the ops take them; the margins, at least 0."""
    check.floating("pred", pred)
    check.tensor_on("target", target, "pred", pred)
    check.same_shape("target", target, "pred", pred)
    if target.requires_grad:
        raise ValueError("target has no gradient here: pass target.detach()")
    if target.dtype not in check.FLOATING:
        target = target.to(pred.dtype)
    weight = check.weight_like(weight, pred.shape, "pred", pred)
    margins = (check.number("pos_margin", pos_margin), check.number("neg_margin", neg_margin))
    return pred, target, weight, (max(margins[0], 0.0), max(margins[1], 0.0))


def _mined(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    neg_margin: float,
    neg_pos_ub: float,
    hard_mining: bool,
    min_count: float,
    min_positives: float,
) -> tuple[Tensor | None, Tensor]:
    """Which of the negatives are kept, None for all; how many pairs count, or `min_count`."""
    check.flag("hard_mining", hard_mining)
    fewest = check.at_least("min_positives", min_positives, 0)
    has_limit = check.number("neg_pos_ub", neg_pos_ub) > 0
    # More for each positive, of which at least one counts, than there are pairs is no limit.
    most, fewest = (neg_pos_ub, fewest) if has_limit else (max(pred.numel(), 1), 1.0)
    values = (x if x is None else x.detach() for x in (pred, target, weight))
    counting = (neg_margin, float(most), min_count, fewest)
    hardness, negative, limit, left = _negatives(*values, *counting)
    if not has_limit:
        return None, left
    if not hard_mining:
        hardness = torch.rand_like(hardness, dtype=torch.float64)
    kept = hard_negative_mask(hardness.view(1, -1), negative.view(1, -1), limit)
    return kept.view(pred.shape), left
