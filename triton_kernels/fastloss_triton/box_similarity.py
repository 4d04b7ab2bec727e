"""IoU, GIoU, DIoU and CIoU of pairs of xyxy boxes with their derivatives, for the kernels of
`box_loss` and `pairwise_iou`; formulas: fastloss/reference/box_similarity.py."""

import math

import triton
import triton.language as tl

from ._boxes import hull, inverse, overlap

KINDS = {"iou": 0, "giou": 1, "diou": 2, "ciou": 3}
FOUR_OVER_PI2 = tl.constexpr(4 / math.pi**2)


@triton.jit
def floor_of(eps, EPS: tl.constexpr, KIND: tl.constexpr):
    """The eps of an area as `similarity` takes it; EPS is the one unscaled. IoU and GIoU have no
    floor at 0: union and hull of inverted boxes are negative."""
    if EPS == 0.0 and KIND <= 1:
        eps = eps - float("inf")
    return eps


@triton.jit
def similarity(
    px1, py1, px2, py2, p_angle, tx1, ty1, tx2, ty2, t_angle, area_eps, union_eps,
    KIND: tl.constexpr,
):  # fmt: skip
    """The similarity of boxes p and t, whose shapes broadcast, and its derivatives: to the area of
    either box, to overlap, hull and shift of both axes, and to the angle of t (that of p has the
    opposite sign). The angles, atan(width / height), are for CIoU."""
    ox, oy = overlap(px1, px2, tx1, tx2), overlap(py1, py2, ty1, ty2)
    hx, hy = hull(px1, px2, tx1, tx2), hull(py1, py2, ty1, ty2)
    iw, ih = tl.maximum(ox, 0.0), tl.maximum(oy, 0.0)
    least = 0.0
    if KIND == 1:
        least = tl.minimum(area_eps, 0.0)
    hw, hh = tl.maximum(hx, least), tl.maximum(hy, least)
    inter = iw * ih
    raw = (px2 - px1) * (py2 - py1) + (tx2 - tx1) * (ty2 - ty1) - inter
    zero = raw * 0.0
    g_iou, open_union = zero + 1.0, zero + 1.0
    g_union, g_hx, g_hy, g_sx, g_sy, g_angle = zero, zero, zero, zero, zero, zero
    if KIND <= 1:
        open_union = tl.where(raw >= union_eps, 1.0, zero)
        union = tl.where(raw >= union_eps, raw, union_eps)
    else:
        union = raw + union_eps
    over_union = inverse(union)
    iou = inter * over_union
    score = iou
    if KIND == 1:
        area = hw * hh
        floored = tl.where(area >= area_eps, area, area_eps)
        over_hull = inverse(floored)
        score = iou - (floored - union) * over_hull
        g_union = over_hull
        g_area = tl.where(area >= area_eps, -union * over_hull * over_hull, 0.0)
        g_hx = tl.where(hx >= least, g_area * hh, 0.0)
        g_hy = tl.where(hy >= least, g_area * hw, 0.0)
    elif KIND >= 2:
        sx, sy = (tx1 - px1) + (tx2 - px2), (ty1 - py1) + (ty2 - py2)
        over_diagonal = inverse(hw * hw + hh * hh + area_eps)
        distance = (sx * sx + sy * sy) * 0.25 * over_diagonal
        score = iou - distance
        if KIND == 3:
            angle = t_angle - p_angle
            v = angle * angle * FOUR_OVER_PI2
            alpha = tl.where(iou > 0.5, v * inverse(1.0 - iou + v), 0.0)
            score -= alpha * v
            g_iou = tl.where((score >= -1.0) & (score <= 1.0), 1.0, zero)
            score = tl.minimum(tl.maximum(score, -1.0), 1.0)
            g_angle = g_iou * alpha * angle * -2.0 * FOUR_OVER_PI2
        g_diagonal = 2.0 * g_iou * distance * over_diagonal
        g_hx, g_hy = g_diagonal * hw, g_diagonal * hh
        g_shift = g_iou * -0.5 * over_diagonal
        g_sx, g_sy = g_shift * sx, g_shift * sy
    g_box = open_union * (g_union - g_iou * iou * over_union)
    g_inter = g_iou * over_union - g_box
    g_ox = tl.where(ox >= 0.0, g_inter * ih, 0.0)
    g_oy = tl.where(oy >= 0.0, g_inter * iw, 0.0)
    return score, g_box, g_ox, g_oy, g_hx, g_hy, g_sx, g_sy, g_angle
