r"""Similarity of pairs of boxes p and t of shape (*, 4) in xyxy.

`pairwise_iou` computes it for all pairs of two sets, and losses of `box_loss` are made of it.

With the intersection I (extents clamped at 0), areas A = (x2 - x1)(y2 - y1), not clamped (an
inverted box counts negative), the hull (smallest enclosing box) H = hw * hh, c^2 = hw^2 + hh^2 and
rho the distance of the centres:

    iou    I / U,  U = max(A_p + A_t - I, union_eps), without the maximum if union_eps is 0
    giou   I / U - (H - U) / H,  U as above, hw and hh clamped at 0 and H floored at eps, neither
           if eps is 0
    diou   I / U - rho^2 / (c^2 + eps),  U = A_p + A_t - I + union_eps
    ciou   clamp(I / U - rho^2 / (c^2 + eps) - alpha v, -1, 1)
           v = 4 / pi^2 (atan(w_t / h_t) - atan(w_p / h_p))^2, eps added to heights,
           alpha = [I / U > 1/2] v / (1 - I / U + v), a constant in the gradient

Edge rules: a quotient with a denominator of 0 or below the smallest normal number is 0 (coinciding
boxes have alpha = 0), but atan(w / 0) is pi / 2 or -pi / 2, and 0 where w is too. min and max split
the gradient at a tie, clamp passes it at the bound, as torch. Coordinates come multiplied by a
power of two s (`_boxes.scaled`), and eps with s^2 or s, so that no product overflows.

Sources: Yu et al. arXiv 1608.01471 (IoU), Rezatofighi et al. arXiv 1902.09630 (GIoU), Zheng et al.
arXiv 1911.08287 and 2005.03572 (DIoU, CIoU); mmdet 3.3.0 `models/losses/iou_loss.py`.
"""

import math

import torch
from torch import Tensor

from ._boxes import at_least, inverse_or_zero, to_coordinates

KINDS = ("iou", "giou", "diou", "ciou")


def similarity(p: Tensor, t: Tensor, s: Tensor, kind: str, eps: float, union_eps: float) -> Tensor:
    """Similarity (*) of boxes that were multiplied by s (*)."""
    p1, p2, t1, t2 = p[..., :2], p[..., 2:], t[..., :2], t[..., 2:]  # (*, 2) each
    overlap = (torch.minimum(p2, t2) - torch.maximum(p1, t1)).clamp(min=0)
    hull = (torch.maximum(p2, t2) - torch.minimum(p1, t1)).clamp(min=_least_extent(kind, eps))
    inter = overlap.prod(-1)
    union = (p2 - p1).prod(-1) + (t2 - t1).prod(-1) - inter  # (*)
    floored = _has_floor(kind, union_eps)
    area_eps, union_eps = eps * s * s, union_eps * s * s
    union = at_least(union, union_eps) if floored else union + union_eps
    iou = inter * inverse_or_zero(union)
    if kind == "iou":
        return iou
    if kind == "giou":
        area = at_least(hull.prod(-1), area_eps) if eps > 0 else hull.prod(-1)
        return iou - (area - union) * inverse_or_zero(area)
    shift = (t1 - p1) + (t2 - p2)  # twice the distance of the centres
    distance = shift.square().sum(-1) / 4 * inverse_or_zero(hull.square().sum(-1) + area_eps)
    if kind == "diou":
        return iou - distance
    v = _aspect(p, t, eps * s)[0]
    alpha = _trade_off(iou, v).detach()
    return (iou - (distance + alpha * v)).clamp(-1, 1)


def _has_floor(kind: str, union_eps: float) -> bool:
    return kind in ("iou", "giou") and union_eps > 0


def _least_extent(kind: str, eps: float) -> float:
    """At what extents of the hull are clamped."""
    return -math.inf if kind == "giou" and eps == 0 else 0


def _aspect(p: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
    """v and the difference of angles behind it, with widths and heights (+ eps) of both boxes."""
    pw, ph = p[..., 2] - p[..., 0], p[..., 3] - p[..., 1] + eps
    tw, th = t[..., 2] - t[..., 0], t[..., 3] - t[..., 1] + eps
    angle = _angle(tw, th) - _angle(pw, ph)
    return 4 / math.pi**2 * angle.square(), angle, pw, ph, tw, th


def _angle(w: Tensor, h: Tensor) -> Tensor:
    """atan(w / h) in [-pi/2, pi/2], also where the quotient is no float."""
    return torch.atan2(torch.where(h < 0, -w, w), h.abs())


def _trade_off(iou: Tensor, v: Tensor) -> Tensor:
    return torch.where(iou > 0.5, v * inverse_or_zero(1 - iou + v), 0)


def gradient(
    p: Tensor, t: Tensor, s: Tensor, kind: str, eps: float, union_eps: float
) -> tuple[Tensor, Tensor]:
    """Derivatives of `similarity` with respect to p and t, (*, 4) each."""
    p1, p2, t1, t2 = p[..., :2], p[..., 2:], t[..., :2], t[..., 2:]
    p_size, t_size = p2 - p1, t2 - t1  # (*, 2)
    overlap_raw = torch.minimum(p2, t2) - torch.maximum(p1, t1)
    hull_raw = torch.maximum(p2, t2) - torch.minimum(p1, t1)
    least = _least_extent(kind, eps)
    overlap, hull = overlap_raw.clamp(min=0), hull_raw.clamp(min=least)
    inter = overlap.prod(-1)
    raw = p_size.prod(-1) + t_size.prod(-1) - inter
    floored = _has_floor(kind, union_eps)
    area_eps, union_eps = eps * s * s, union_eps * s * s
    union = at_least(raw, union_eps) if floored else raw + union_eps
    inverse = inverse_or_zero(union)
    iou = inter * inverse

    # d / d iou, d / d union beside it, d / d hull, d / d shift, d / d size beside the areas
    g_iou, g_union = torch.ones_like(iou), torch.zeros_like(iou)
    zero = torch.zeros_like(overlap)
    g_hull = g_shift = g_p_size = g_t_size = zero
    if kind == "giou":
        area, floor = hull.prod(-1), area_eps if eps > 0 else -torch.inf
        open_area = area >= floor
        inverse_area = inverse_or_zero(torch.where(open_area, area, floor))
        g_union = inverse_area
        g_area = torch.where(open_area, -union * inverse_area * inverse_area, 0)
        g_hull = torch.where(hull_raw >= least, g_area[..., None] * hull.flip(-1), 0)
    elif kind != "iou":
        shift = (t1 - p1) + (t2 - p2)
        inverse_c2 = inverse_or_zero(hull.square().sum(-1) + area_eps)
        distance = shift.square().sum(-1) / 4 * inverse_c2
        if kind == "ciou":
            v, angle, pw, ph, tw, th = _aspect(p, t, eps * s)
            alpha = _trade_off(iou, v)
            g_iou = ((iou - (distance + alpha * v)).abs() <= 1).to(iou.dtype)
            slope = -g_iou * alpha * (8 / math.pi**2) * angle
            smallest = torch.finfo(iou.dtype).tiny
            p_slope = slope / (pw * pw + ph * ph).clamp(min=smallest)
            t_slope = slope / (tw * tw + th * th).clamp(min=smallest)
            g_p_size = torch.stack((-p_slope * ph, p_slope * pw), -1)
            g_t_size = torch.stack((t_slope * th, -t_slope * tw), -1)
        g_c2 = g_iou * distance * inverse_c2
        g_hull = torch.where(hull_raw >= 0, 2 * hull * g_c2[..., None], 0)
        g_shift = -(g_iou * 0.5 * inverse_c2)[..., None] * shift

    # areas and intersection, then the extents of each axis, then the coordinates
    g_area = g_union - g_iou * iou * inverse
    if floored:
        g_area = torch.where(raw >= union_eps, g_area, 0)
    g_inter = g_iou * inverse - g_area
    g_overlap = torch.where(overlap_raw >= 0, g_inter[..., None] * overlap.flip(-1), 0)
    g_p_size = g_p_size + g_area[..., None] * p_size.flip(-1)
    g_t_size = g_t_size + g_area[..., None] * t_size.flip(-1)
    p1, p2, t1, t2 = to_coordinates(p, t, g_p_size, g_t_size, g_overlap, g_hull, g_shift)
    return torch.cat((p1, p2), -1), torch.cat((t1, t2), -1)
