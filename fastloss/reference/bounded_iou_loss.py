r"""Bounded IoU loss of aligned pairs of boxes, pred and target of shape (*, 4) in xyxy.

Each of centre x, centre y, width and height has a score like an IoU of its own, 1 where it is that
of the target. With the distance d of the centres and the extents p and t of an axis, not clamped:

    centre   x = 1 - max((t - 2 d) / (t + 2 d + eps), 0)
    extent   x = 1 - min(t / (p + eps), p / (t + eps))
    loss     x^2 / (2 beta) where x < beta, x - beta / 2 elsewhere

The unreduced loss is (*, 4), in the order above: x, y, w, h. The target has no gradient.

Edge rules: a quotient with a denominator of 0 or below the smallest normal number is 0, the
derivative of |x| is 0 at 0, max and min split the gradient at a tie. Huge coordinates are scaled as
in `box_loss`; a pair with a coordinate that is not finite has loss and gradient NaN.

Sources: Tychsen-Smith & Petersson arXiv 1711.00164; mmdet 3.3.0 `models/losses/iou_loss.py`.
"""

import torch
from torch import Tensor

from ._boxes import inverse_or_zero, scaled, wins
from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread


def _terms(p: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
    """The quotients of centre and extents with the inverses of their denominators, and twice the
    offset of the centres: (*, 2) each. eps is (*, 1)."""
    p_size, t_size = p[..., 2:] - p[..., :2], t[..., 2:] - t[..., :2]
    shift = (t[..., :2] - p[..., :2]) + (t[..., 2:] - p[..., 2:])
    inverse = inverse_or_zero(t_size + shift.abs() + eps)
    inverse_p, inverse_t = inverse_or_zero(p_size + eps), inverse_or_zero(t_size + eps)
    quotients = ((t_size - shift.abs()) * inverse, t_size * inverse_p, p_size * inverse_t)
    return *quotients, shift, inverse, inverse_p, inverse_t


def _excess(centre: Tensor, shrunk: Tensor, grown: Tensor) -> Tensor:
    """x of all four coordinates, (*, 4)."""
    bounded = torch.maximum(centre, torch.zeros_like(centre)), torch.minimum(shrunk, grown)
    return 1 - torch.cat(bounded, -1)


def _loss(x: Tensor, beta: float) -> Tensor:
    return torch.where(x < beta, 0.5 * x * x / beta, x - 0.5 * beta)


def forward(
    pred: Tensor,  # (*, 4) xyxy
    target: Tensor,  # (*, 4) xyxy
    weight: Tensor | None,  # (*, 4)
    avg_factor: Tensor | None,  # ()
    beta: float,
    eps: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (*, 4) for "none", () otherwise."""
    dtype = compute_dtype(pred)
    p, t, s, poison = scaled(pred.to(dtype), target.to(dtype))
    loss = _loss(_excess(*_terms(p, t, eps * s)[:3]), beta) + poison[..., None]
    out = result_dtype(pred, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, loss.numel(), out)


def backward(
    grad: Tensor,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    beta: float,
    eps: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to pred and weight."""
    dtype = compute_dtype(pred)
    p, t, s, poison = scaled(pred.to(dtype), target.to(dtype))
    centre, shrunk, grown, shift, inverse, inverse_p, inverse_t = _terms(p, t, eps * s)
    x = _excess(centre, shrunk, grown)
    g = spread(grad, x, avg_factor, divisor, reduction, x.numel())
    g_weight = g * (_loss(x, beta) + poison[..., None]) if needs & 2 else None
    g = g if weight is None else g * weight.to(dtype)
    g_x = torch.where(x < beta, x / beta, 1) * g
    g_shift = g_x[..., :2] * wins(centre, 0) * (1 + centre) * inverse * shift.sign()
    # where, not a product: the quotient that is not the minimum may be infinite
    to_p = torch.where(shrunk < grown, shrunk * inverse_p, -inverse_t)
    tie = 0.5 * (shrunk * inverse_p - inverse_t)
    g_size = g_x[..., 2:] * torch.where(shrunk == grown, tie, to_p)
    g_pred = torch.cat((-g_shift - g_size, g_size - g_shift), -1) * s + poison[..., None]
    weight_dtype = pred.dtype if weight is None else weight.dtype
    return gradients(needs, pred, (g_pred, pred.dtype), (g_weight, weight_dtype))
