r"""Losses of aligned pairs of boxes, pred and target of shape (*, 4) in xyxy.

With the intersection I (extents clamped at 0), areas A = (x2 - x1)(y2 - y1), not clamped (an
inverted box counts negative), the hull (smallest enclosing box) H = hw * hh, c^2 = hw^2 + hh^2 and
rho the distance of the centres:

    iou    f(max(I / U, eps)),  U = max(A_p + A_t - I, union_eps),  f = 1 - x | 1 - x^2 | -ln x
    giou   1 - I / U + (H - U) / H,  U as above, H floored at eps
    diou   1 - I / U + rho^2 / (c^2 + eps),  U = A_p + A_t - I + union_eps
    ciou   1 - clamp(I / U - rho^2 / (c^2 + eps) - alpha v, -1, 1)
           v = 4 / pi^2 (atan(w_t / h_t) - atan(w_p / h_p))^2, eps added to heights,
           alpha = [I / U > 1/2] v / (1 - I / U + v), a constant in the gradient

Edge rules: a quotient with a denominator of 0 or below the smallest normal number is 0 (coinciding
boxes have alpha = 0). min and max split the gradient at a tie, clamp passes it at the bound, as
torch. Coordinates beyond 2^60 (float32; 2^500 float64) are scaled by a power of two s first, and
eps with s^2 or s, so that no product overflows. A pair with a coordinate that is not finite has
loss and gradient NaN.

Sources: Yu et al. arXiv 1608.01471 (IoU), Rezatofighi et al. arXiv 1902.09630 (GIoU), Zheng et al.
arXiv 1911.08287 and 2005.03572 (DIoU, CIoU); mmdet 3.3.0 `models/losses/iou_loss.py`.
"""

import math

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread

KINDS = ("iou", "giou", "diou", "ciou")
MODES = ("linear", "square", "log")


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is below the smallest normal number, whose inverse may overflow."""
    zero = x.abs() < torch.finfo(x.dtype).tiny
    return (1 / x.masked_fill(zero, 1)).masked_fill(zero, 0)


def _at_least(x: Tensor, bound: Tensor) -> Tensor:
    """max(x, bound) with the gradient of clamp: 1 where x >= bound."""
    return torch.where(x >= bound, x, bound)


def _scaled(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes in a range without overflow, the factor used (*, 1), and 0 or NaN (*) as poison."""
    limit, factor = (2.0**60, 2.0**-70) if pred.dtype == torch.float32 else (2.0**500, 2.0**-1000)
    largest = torch.maximum(pred.abs().amax(-1), target.abs().amax(-1))  # (*)
    scale = torch.ones_like(largest).masked_fill(largest > limit, factor)[..., None]
    poison = (pred.detach() * 0 + target.detach() * 0).sum(-1)
    return pred * scale, target * scale, scale, poison


def _loss(
    p: Tensor, t: Tensor, s: Tensor, kind: str, mode: str, eps: float, union_eps: float
) -> Tensor:
    """Unreduced loss (*) of boxes that were multiplied by s (*, 1)."""
    p1, p2, t1, t2 = p[..., :2], p[..., 2:], t[..., :2], t[..., 2:]  # (*, 2) each
    overlap = (torch.minimum(p2, t2) - torch.maximum(p1, t1)).clamp(min=0)
    hull = (torch.maximum(p2, t2) - torch.minimum(p1, t1)).clamp(min=0)
    inter = overlap.prod(-1)
    union = (p2 - p1).prod(-1) + (t2 - t1).prod(-1) - inter  # (*)
    s = s.squeeze(-1)
    area_eps, union_eps = eps * s * s, union_eps * s * s
    union = _at_least(union, union_eps) if kind in ("iou", "giou") else union + union_eps
    iou = inter * _inverse(union)
    if kind == "iou":
        iou = iou.clamp(min=eps)
        return {"linear": 1 - iou, "square": 1 - iou * iou, "log": -iou.log()}[mode]
    if kind == "giou":
        area = _at_least(hull.prod(-1), area_eps)
        return 1 - iou + (area - union) * _inverse(area)
    shift = (t1 - p1) + (t2 - p2)  # twice the distance of the centres
    distance = shift.square().sum(-1) / 4 * _inverse(hull.square().sum(-1) + area_eps)
    if kind == "diou":
        return 1 - (iou - distance)
    v = _aspect(p, t, eps * s)[0]
    alpha = _trade_off(iou, v).detach()
    return 1 - (iou - (distance + alpha * v)).clamp(-1, 1)


def _aspect(p: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
    """v and the difference of angles behind it, with widths and heights (+ eps) of both boxes."""
    pw, ph = p[..., 2] - p[..., 0], p[..., 3] - p[..., 1] + eps
    tw, th = t[..., 2] - t[..., 0], t[..., 3] - t[..., 1] + eps
    angle = torch.atan(tw * _inverse(th)) - torch.atan(pw * _inverse(ph))
    return 4 / math.pi**2 * angle.square(), angle, pw, ph, tw, th


def _trade_off(iou: Tensor, v: Tensor) -> Tensor:
    return torch.where(iou > 0.5, v * _inverse(1 - iou + v), 0)


def _wins(a: Tensor, b: Tensor) -> Tensor:
    """d max(a, b) / da."""
    return (a > b).to(a.dtype) + 0.5 * (a == b).to(a.dtype)


def _gradient(
    p: Tensor, t: Tensor, s: Tensor, kind: str, mode: str, eps: float, union_eps: float
) -> tuple[Tensor, Tensor]:
    """Derivatives of `_loss` with respect to p and t, (*, 4) each."""
    p1, p2, t1, t2 = p[..., :2], p[..., 2:], t[..., :2], t[..., 2:]
    p_size, t_size = p2 - p1, t2 - t1  # (*, 2)
    overlap_raw = torch.minimum(p2, t2) - torch.maximum(p1, t1)
    hull_raw = torch.maximum(p2, t2) - torch.minimum(p1, t1)
    overlap, hull = overlap_raw.clamp(min=0), hull_raw.clamp(min=0)
    inter = overlap.prod(-1)
    raw = p_size.prod(-1) + t_size.prod(-1) - inter
    s = s.squeeze(-1)
    area_eps, union_eps = eps * s * s, union_eps * s * s
    floored = kind in ("iou", "giou")
    union = _at_least(raw, union_eps) if floored else raw + union_eps
    inverse = _inverse(union)
    iou = inter * inverse

    # dL / d iou, dL / d union beside it, dL / d hull, dL / d shift, dL / d size beside the areas
    g_iou, g_union = torch.full_like(iou, -1), torch.zeros_like(iou)
    g_hull = g_shift = g_p_size = g_t_size = torch.zeros_like(p1)
    if kind == "iou":
        x = iou.clamp(min=eps)
        slope = {"linear": -torch.ones_like(x), "square": -2 * x, "log": -1 / x}[mode]
        g_iou = torch.where(iou >= eps, slope, 0)
    elif kind == "giou":
        area = hull.prod(-1)
        inverse_area = _inverse(_at_least(area, area_eps))
        g_union = -inverse_area
        g_area = torch.where(area >= area_eps, union * inverse_area * inverse_area, 0)
        g_hull = torch.where(hull_raw >= 0, g_area[..., None] * hull.flip(-1), 0)
    else:
        shift = (t1 - p1) + (t2 - p2)
        inverse_c2 = _inverse(hull.square().sum(-1) + area_eps)
        distance = shift.square().sum(-1) / 4 * inverse_c2
        open_ = torch.ones_like(iou)
        if kind == "ciou":
            v, angle, pw, ph, tw, th = _aspect(p, t, eps * s)
            alpha = _trade_off(iou, v)
            open_ = ((iou - (distance + alpha * v)).abs() <= 1).to(iou.dtype)
            slope = open_ * alpha * (8 / math.pi**2) * angle
            smallest = torch.finfo(iou.dtype).tiny
            p_slope = slope / (pw * pw + ph * ph).clamp(min=smallest)
            t_slope = slope / (tw * tw + th * th).clamp(min=smallest)
            g_p_size = torch.stack((-p_slope * ph, p_slope * pw), -1)
            g_t_size = torch.stack((t_slope * th, -t_slope * tw), -1)
        g_iou = -open_
        g_c2 = -open_ * distance * inverse_c2
        g_hull = torch.where(hull_raw >= 0, 2 * hull * g_c2[..., None], 0)
        g_shift = (open_ * 0.5 * inverse_c2)[..., None] * shift

    # areas and intersection, then the extents of each axis, then the coordinates
    g_area = g_union - g_iou * iou * inverse
    if floored:
        g_area = torch.where(raw >= union_eps, g_area, 0)
    g_inter = g_iou * inverse - g_area
    g_overlap = torch.where(overlap_raw >= 0, g_inter[..., None] * overlap.flip(-1), 0)
    g_p_size = g_p_size + g_area[..., None] * p_size.flip(-1)
    g_t_size = g_t_size + g_area[..., None] * t_size.flip(-1)
    first, last = _wins(p1, t1), _wins(p2, t2)
    g_p = (
        -g_p_size - g_overlap * first - g_hull * (1 - first) - g_shift,
        g_p_size + g_overlap * (1 - last) + g_hull * last - g_shift,
    )
    g_t = (
        -g_t_size - g_overlap * (1 - first) - g_hull * first + g_shift,
        g_t_size + g_overlap * last + g_hull * (1 - last) + g_shift,
    )
    return torch.cat(g_p, -1), torch.cat(g_t, -1)


def forward(
    pred: Tensor,  # (*, 4) xyxy
    target: Tensor,  # (*, 4) xyxy
    weight: Tensor | None,  # (*)
    avg_factor: Tensor | None,  # ()
    kind: str,
    mode: str,
    eps: float,
    union_eps: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (*) for "none", () otherwise."""
    dtype = compute_dtype(pred)
    p, t, s, poison = _scaled(pred.to(dtype), target.to(dtype))
    loss = _loss(p, t, s, kind, mode, eps, union_eps) + poison
    out = result_dtype(pred, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, loss.numel(), out)


def backward(
    grad: Tensor,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    kind: str,
    mode: str,
    eps: float,
    union_eps: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to pred, target and weight."""
    dtype = compute_dtype(pred)
    p, t, s, poison = _scaled(pred.to(dtype), target.to(dtype))
    g = spread(grad, poison, avg_factor, divisor, reduction, poison.numel())
    g_weight = g * (_loss(p, t, s, kind, mode, eps, union_eps) + poison) if needs & 4 else None
    g = (g if weight is None else g * weight.to(dtype))[..., None] * s + poison[..., None]
    g_pred, g_target = (g * part for part in _gradient(p, t, s, kind, mode, eps, union_eps))
    weight_dtype = pred.dtype if weight is None else weight.dtype
    return gradients(
        needs, pred, (g_pred, pred.dtype), (g_target, target.dtype), (g_weight, weight_dtype)
    )
