r"""Squared distances of pairs from their targets, with margins and a limit on the negatives.

x (*) are predicted similarities or distances, t (*) what they shall be: 1 for a positive pair (same
identity), 0 for a negative one; w (*) are weights, 1 if not given. A pair whose weight is not above
0 is invalid: neither positive nor negative, with a target of -1. With a margin m of
`pos_margin` for positives, `neg_margin` for negatives and 0 for other pairs the loss of a pair is

    l = (clamp(x - m, 0, 1) - t)^2

whose derivative by x is 0 outside of [0, 1] and at NaN. At most floor(max(#positives,
`min_positives`) neg_pos_ub) negatives are kept (`negatives` counts); the loss of the others is 0,
whatever they are. The sum is divided by how many pairs with a weight above 0 are left, at least
`min_count` of them. Reduction: `_reduce`.

Sources: vis4d 1.0.0 `op/loss/embedding_distance.py`; mmdet 3.3.0 `losses/{l2,margin}_loss.py`,
with a `min_positives` of 0.
"""

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread


def roles(pred: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs (*) are positive, which negative, and their targets."""
    t = target.to(compute_dtype(pred))
    if weight is None:
        return t == 1, t == 0, t
    valid = weight.to(t.dtype) > 0
    return valid & (t == 1), valid & (t == 0), torch.where(valid, t, -1)


def shifted(
    pred: Tensor, positive: Tensor, negative: Tensor, pos_margin: float, neg_margin: float
) -> Tensor:
    """x - m."""
    return pred - (pos_margin * positive.to(pred.dtype) + neg_margin * negative.to(pred.dtype))


def negatives(
    pred: Tensor,  # (*)
    target: Tensor,  # (*)
    weight: Tensor | None,  # (*)
    neg_margin: float,
    neg_pos_ub: float,
    min_count: float,
    min_positives: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How hard the negatives are (*), 0 for other pairs; which they are (*) bool; how many are kept
    (1,) int64; how many pairs with a weight above 0 are left then, at least `min_count`, ()
    float64."""
    positive, negative, _ = roles(pred, target, weight)
    x = shifted(pred.to(compute_dtype(pred)), positive, negative, 0.0, neg_margin).clamp(0, 1)
    limit = positive.sum(dtype=torch.float64).clamp(min=min_positives) * neg_pos_ub
    limit = limit.floor().clamp(max=pred.numel()).long()
    ones = torch.ones_like(negative) if weight is None else weight.to(x.dtype) > 0
    left = ones.sum() - (negative.sum() - limit).clamp(min=0)
    return (
        torch.where(negative, x, 0).contiguous(),
        negative.contiguous(),
        limit.reshape(1),
        left.clamp(min=min_count).double(),
    )


def _differences(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    kept: Tensor | None,
    pos_margin: float,
    neg_margin: float,
) -> tuple[Tensor, Tensor]:
    """clamp(x - m, 0, 1) - t, 0 for negatives that are not kept; where it grows with x."""
    positive, negative, t = roles(pred, target, weight)
    counts = torch.ones_like(negative) if kept is None else kept | ~negative
    x = torch.where(counts, pred.to(t.dtype), 0)
    x = shifted(x, positive, negative, pos_margin, neg_margin)
    return torch.where(counts, x.clamp(0, 1) - t, 0), counts & (x >= 0) & (x <= 1)


def forward(
    pred: Tensor,  # (*)
    target: Tensor,  # (*)
    weight: Tensor | None,  # (*)
    kept: Tensor | None,  # (*) bool, of negatives; None: all
    avg_factor: Tensor | None,  # ()
    pos_margin: float,
    neg_margin: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (*) for "none", () otherwise."""
    d, _ = _differences(pred, target, weight, kept, pos_margin, neg_margin)
    out = result_dtype(pred, widen)
    return reduce(d * d, weight, avg_factor, divisor, reduction, d.numel(), out)


def backward(
    grad: Tensor,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    kept: Tensor | None,
    avg_factor: Tensor | None,
    pos_margin: float,
    neg_margin: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to pred and weight."""
    d, grows = _differences(pred, target, weight, kept, pos_margin, neg_margin)
    g = spread(grad, d, avg_factor, divisor, reduction, d.numel())
    g_pred = 2 * d * (g if weight is None else g * weight.to(d.dtype))
    weight_dtype = pred.dtype if weight is None else weight.dtype
    return gradients(
        needs, pred, (torch.where(grows, g_pred, 0), pred.dtype), (g * d * d, weight_dtype)
    )
