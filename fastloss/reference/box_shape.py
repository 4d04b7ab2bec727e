r"""EIoU and SIoU of aligned pairs of boxes, two kinds of `box_loss`, which has the common rules.

Per axis, with a prediction [p1, p2] and a target [t1, t2]: o = min(p2, t2) - max(p1, t1), negative
where they are apart, o+ = max(o, 0), o- = min(o, 0), and r = o + 2 |t1 - p1|. The areas A are not
clamped.

    eiou   x^2 / (2 s) where x < s, x - s / 2 elsewhere, with s = smooth_point,
           x = 1 - I / (A_p + A_t - I + union_eps),  I = ox+ oy+ + rx oy- + ry ox-
           I is the intersection, continued to negative values for disjoint boxes.

    siou   1 - clamp(I / U - (D + S) / 2, -1, 1),  I = ox+ oy+,  U = A_p + A_t - I + union_eps
           D = 2 - exp(g (cx / hw)^2) - exp(g (cy / hh)^2), the distance cost: c = offset of the
               centres + eps, the hull's extents hw and hh floored at eps, g = 2 - L, or L - 2 if
               neg_gamma (as in the paper; the default makes the loss fall with the distance)
           L = 2 |cx| |cy| / (cx^2 + cy^2), the angle cost: sin(2 alpha) for sin(alpha) = |cx| / |c|
           S = (1 - exp(-ow))^4 + (1 - exp(-oh))^4, the shape cost: o = |p - t| / max(p, t) of the
               widths, and of the heights + eps

Edge rules beside those of `box_loss`: a quotient with a denominator of 0 is 0, so L = 0 for c = 0
and o = 0 where both boxes have no width. The exponents of D are clamped to [-80, 80], those of S to
[-80, 20]: proper boxes stay within 8 (hull) and 1 (sizes), and for inverted ones both terms stop at
e^80, where the outer clamp holds anyway.

Sources: Peng & Yu, IEEE TIP 2021, 9429909 (EIoU); Gevorgyan arXiv 2205.12740 (SIoU); mmdet 3.3.0
`models/losses/iou_loss.py`, whose eiou, and where finite whose siou, are these functions.
"""

import torch
from torch import Tensor

from ._boxes import at_least, inverse_or_zero, to_coordinates, wins

LIMIT, SHAPE_LIMIT = 80.0, 20.0


def _eiou_terms(p: Tensor, t: Tensor, s: Tensor, union_eps: float) -> tuple[Tensor, ...]:
    """o, r (*, 2); I, 1 / U and x (*)."""
    p1, p2, t1, t2 = p[..., :2], p[..., 2:], t[..., :2], t[..., 2:]
    overlap = torch.minimum(p2, t2) - torch.maximum(p1, t1)
    reach = overlap + 2 * (t1 - p1).abs()
    zero = torch.zeros_like(overlap)
    # maximum and minimum, not clamp: mmdet's formula splits the gradient of touching boxes
    inside, outside = torch.maximum(overlap, zero), torch.minimum(overlap, zero)
    inter = inside.prod(-1) + (reach * outside.flip(-1)).sum(-1)
    inverse = inverse_or_zero((p2 - p1).prod(-1) + (t2 - t1).prod(-1) - inter + union_eps * s * s)
    return overlap, reach, inter, inverse, 1 - inter * inverse


def eiou(p: Tensor, t: Tensor, s: Tensor, union_eps: float, smooth_point: float) -> Tensor:
    """Loss (*) of boxes (*, 4) that were multiplied by s (*)."""
    x = _eiou_terms(p, t, s, union_eps)[-1]
    return torch.where(x < smooth_point, 0.5 * x * x / smooth_point, x - 0.5 * smooth_point)


def eiou_gradient(
    p: Tensor, t: Tensor, s: Tensor, union_eps: float, smooth_point: float
) -> tuple[Tensor, Tensor]:
    """Derivatives of `eiou` with respect to p and t, (*, 4) each."""
    overlap, reach, inter, inverse, x = _eiou_terms(p, t, s, union_eps)
    g_iou = -torch.where(x < smooth_point, x / smooth_point, 1)
    g_area = -g_iou * inter * inverse * inverse
    g_inter = (g_iou * inverse - g_area)[..., None]
    part = wins(overlap, 0)
    g_reach = g_inter * overlap.clamp(max=0).flip(-1)
    g_overlap = (
        part * g_inter * overlap.clamp(min=0).flip(-1)
        + (1 - part) * g_inter * reach.flip(-1)
        + g_reach
    )
    g_p_size = g_area[..., None] * (p[..., 2:] - p[..., :2]).flip(-1)
    g_t_size = g_area[..., None] * (t[..., 2:] - t[..., :2]).flip(-1)
    none = torch.zeros_like(g_overlap)
    g_p1, g_p2, g_t1, g_t2 = to_coordinates(p, t, g_p_size, g_t_size, g_overlap, none, none)
    g_first = 2 * g_reach * (t[..., :2] - p[..., :2]).sign()  # to t1 - p1
    return torch.cat((g_p1 - g_first, g_p2), -1), torch.cat((g_t1 + g_first, g_t2), -1)


def _size(box: Tensor, eps: Tensor) -> Tensor:
    """Width, and height + eps, (*, 2)."""
    return torch.stack((box[..., 2] - box[..., 0], box[..., 3] - box[..., 1] + eps), -1)


def _distance_terms(p: Tensor, t: Tensor, eps: Tensor, sign: int) -> tuple[Tensor, ...]:
    """c, 1 / hull and rho = (c / hull)^2 (*, 2); 1 / |c|^2, g (*); the raw exponents (*, 2)."""
    p1, p2, t1, t2 = p[..., :2], p[..., 2:], t[..., :2], t[..., 2:]
    hull = torch.maximum(p2, t2) - torch.minimum(p1, t1)
    inverse_hull = inverse_or_zero(at_least(hull, eps[..., None]))
    centre = ((t1 - p1) + (t2 - p2)) * 0.5 + eps[..., None]
    inverse_square = inverse_or_zero(centre.square().sum(-1))
    gamma = sign * (2 - 2 * centre.abs().prod(-1) * inverse_square)
    rho = (centre * inverse_hull).square()
    return centre, inverse_hull, rho, inverse_square, gamma, gamma[..., None] * rho


def _shape_terms(p: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """1 / max(p, t) and o of widths and heights, (*, 2)."""
    p_size, t_size = _size(p, eps), _size(t, eps)
    inverse = inverse_or_zero(torch.maximum(p_size, t_size))
    return inverse, (p_size - t_size).abs() * inverse


def _overlap_terms(p: Tensor, t: Tensor, s: Tensor, union_eps: float) -> tuple[Tensor, ...]:
    """o (*, 2), I / U and 1 / U (*)."""
    overlap = torch.minimum(p[..., 2:], t[..., 2:]) - torch.maximum(p[..., :2], t[..., :2])
    inter = overlap.clamp(min=0).prod(-1)
    areas = (p[..., 2:] - p[..., :2]).prod(-1) + (t[..., 2:] - t[..., :2]).prod(-1)
    inverse = inverse_or_zero(areas - inter + union_eps * s * s)
    return overlap, inter * inverse, inverse


def _score(iou: Tensor, exponent: Tensor, omega: Tensor) -> Tensor:
    """I / U - (D + S) / 2."""
    distance = 2 - exponent.clamp(-LIMIT, LIMIT).exp().sum(-1)
    shape = (1 - (-omega).clamp(-LIMIT, SHAPE_LIMIT).exp()).pow(4).sum(-1)
    return iou - 0.5 * (distance + shape)


def siou(p: Tensor, t: Tensor, s: Tensor, eps: float, union_eps: float, neg_gamma: bool) -> Tensor:
    """Loss (*) of boxes (*, 4) that were multiplied by s (*)."""
    iou = _overlap_terms(p, t, s, union_eps)[1]
    exponent = _distance_terms(p, t, eps * s, -1 if neg_gamma else 1)[-1]
    return 1 - _score(iou, exponent, _shape_terms(p, t, eps * s)[1]).clamp(-1, 1)


def siou_gradient(
    p: Tensor, t: Tensor, s: Tensor, eps: float, union_eps: float, neg_gamma: bool
) -> tuple[Tensor, Tensor]:
    """Derivatives of `siou` with respect to p and t, (*, 4) each."""
    sign = -1 if neg_gamma else 1
    overlap, iou, inverse = _overlap_terms(p, t, s, union_eps)
    centre, inverse_hull, rho, inverse_square, gamma, exponent = _distance_terms(
        p, t, eps * s, sign
    )
    inverse_size, omega = _shape_terms(p, t, eps * s)
    is_open = (_score(iou, exponent, omega).abs() <= 1)[..., None]

    # intersection over union
    g_area = (iou * inverse)[..., None]
    g_overlap = -(inverse[..., None] + g_area) * overlap.clamp(min=0).flip(-1)
    g_overlap = torch.where(overlap >= 0, g_overlap, 0)

    # distance cost: dL/drho and dL/dg, then the centre, the hull and, through g, the angle cost
    e = exponent.clamp(-LIMIT, LIMIT).exp()
    free = exponent.abs() <= LIMIT
    g_rho = torch.where(free, -0.5 * e * gamma[..., None], 0)
    g_gamma = torch.where(free, -0.5 * e * rho, 0).sum(-1, keepdim=True)
    ratio = centre * inverse_hull
    g_centre = 2 * ratio * inverse_hull * g_rho
    g_hull = -g_centre * ratio
    hull = torch.maximum(p[..., 2:], t[..., 2:]) - torch.minimum(p[..., :2], t[..., :2])
    g_hull = torch.where(hull >= (eps * s)[..., None], g_hull, 0)
    other, k = centre.flip(-1), inverse_square[..., None]
    slope = 2 * centre.sign() * other.abs() * k * ((other.square() - centre.square()) * k)
    g_shift = 0.5 * (g_centre - sign * g_gamma * slope)

    # shape cost: o = 1 - min / max
    f = (-omega).clamp(-LIMIT, SHAPE_LIMIT).exp()
    free = (omega >= -SHAPE_LIMIT) & (omega <= LIMIT)
    g_smaller = torch.where(free, -2 * (1 - f).pow(3) * f, 0) * inverse_size
    g_larger = g_smaller * (omega - 1)
    p_part = wins(_size(p, eps * s), _size(t, eps * s))
    g_p_size = p_part * g_larger + (1 - p_part) * g_smaller
    g_t_size = p_part * g_smaller + (1 - p_part) * g_larger
    g_p_size = g_p_size + g_area * (p[..., 2:] - p[..., :2]).flip(-1)
    g_t_size = g_t_size + g_area * (t[..., 2:] - t[..., :2]).flip(-1)

    parts = (g_p_size, g_t_size, g_overlap, g_hull, g_shift)
    g_p1, g_p2, g_t1, g_t2 = to_coordinates(p, t, *(torch.where(is_open, g, 0) for g in parts))
    return torch.cat((g_p1, g_p2), -1), torch.cat((g_t1, g_t2), -1)
