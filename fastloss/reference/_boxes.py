"""Geometry of aligned pairs of boxes, shared by the references of the box losses."""

import torch
from torch import Tensor


def inverse_or_zero(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is below the smallest normal number, whose inverse may overflow."""
    zero = x.abs() < torch.finfo(x.dtype).tiny
    return (1 / x.masked_fill(zero, 1)).masked_fill(zero, 0)


def at_least(x: Tensor, bound: Tensor) -> Tensor:
    """max(x, bound) with the gradient of clamp: 1 where x >= bound."""
    return torch.where(x >= bound, x, bound)


def wins(a: Tensor, b: Tensor | float) -> Tensor:
    """d max(a, b) / da, 1/2 at a tie."""
    return (a > b).to(a.dtype) + 0.5 * (a == b).to(a.dtype)


def scaled(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes in a range without overflow, the factor used (*, 1), and 0 or NaN (*) as poison."""
    limit, factor = (2.0**60, 2.0**-70) if pred.dtype == torch.float32 else (2.0**500, 2.0**-1000)
    largest = torch.maximum(pred.abs().amax(-1), target.abs().amax(-1))  # (*)
    scale = torch.ones_like(largest).masked_fill(largest > limit, factor)[..., None]
    poison = (pred.detach() * 0 + target.detach() * 0).sum(-1)
    return pred * scale, target * scale, scale, poison


def to_coordinates(
    p: Tensor,  # (*, 4)
    t: Tensor,  # (*, 4)
    g_p_size: Tensor,  # (*, 2), as all that follow: derivatives to the quantities of the two axes
    g_t_size: Tensor,
    g_overlap: Tensor,
    g_hull: Tensor,
    g_shift: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Derivatives to p1, p2, t1, t2, (*, 2) each, of a function of the sizes p2 - p1 and t2 - t1,
    overlap = min(p2, t2) - max(p1, t1), hull = max(p2, t2) - min(p1, t1) and
    shift = (t1 - p1) + (t2 - p2)."""
    first, last = wins(p[..., :2], t[..., :2]), wins(p[..., 2:], t[..., 2:])
    return (
        -g_p_size - g_overlap * first - g_hull * (1 - first) - g_shift,
        g_p_size + g_overlap * (1 - last) + g_hull * last - g_shift,
        -g_t_size - g_overlap * (1 - first) - g_hull * first + g_shift,
        g_t_size + g_overlap * last + g_hull * (1 - last) + g_shift,
    )
