"""EIoU and SIoU for the Triton kernels of `box_loss`; formulas: fastloss/reference/box_shape.py.

Both return the loss and its derivatives to the quantities of the two axes: pw ph tw th (sizes),
ox oy (overlap), hx hy (hull), sx sy (shift).
"""

import triton
import triton.language as tl

from ._boxes import hull, inverse, overlap, wins


@triton.jit
def eiou(
    px1, py1, px2, py2, tx1, ty1, tx2, ty2, scale,
    UNION_EPS: tl.constexpr, SMOOTH_POINT: tl.constexpr,
):  # fmt: skip
    pw, ph, tw, th = px2 - px1, py2 - py1, tx2 - tx1, ty2 - ty1
    ox, oy = overlap(px1, px2, tx1, tx2), overlap(py1, py2, ty1, ty2)
    rx, ry = ox + 2.0 * tl.abs(tx1 - px1), oy + 2.0 * tl.abs(ty1 - py1)
    inside_x, inside_y = tl.maximum(ox, 0.0), tl.maximum(oy, 0.0)
    apart_x, apart_y = tl.minimum(ox, 0.0), tl.minimum(oy, 0.0)
    inter = inside_x * inside_y + rx * apart_y + ry * apart_x
    inverse_union = inverse(pw * ph + tw * th - inter + UNION_EPS * scale * scale)
    x = 1.0 - inter * inverse_union
    near = x < SMOOTH_POINT
    loss = tl.where(near, 0.5 * x * x / SMOOTH_POINT, x - 0.5 * SMOOTH_POINT)

    slope = tl.where(near, x / SMOOTH_POINT, 1.0)
    g_area = slope * inter * inverse_union * inverse_union
    g_inter = -slope * inverse_union - g_area
    g_rx, g_ry = g_inter * apart_y, g_inter * apart_x
    x_part, y_part = wins(ox, 0.0), wins(oy, 0.0)
    g_ox = g_inter * (x_part * inside_y + (1.0 - x_part) * ry) + g_rx
    g_oy = g_inter * (y_part * inside_x + (1.0 - y_part) * rx) + g_ry
    # r also has 2 |t1 - p1|, and t1 - p1 = (shift - (t - p)) / 2
    g_sx = tl.where(tx1 > px1, g_rx, tl.where(tx1 < px1, -g_rx, 0.0))
    g_sy = tl.where(ty1 > py1, g_ry, tl.where(ty1 < py1, -g_ry, 0.0))
    g_pw, g_ph = g_area * ph + g_sx, g_area * pw + g_sy
    g_tw, g_th = g_area * th - g_sx, g_area * tw - g_sy
    none = x * 0.0
    return loss, g_pw, g_ph, g_tw, g_th, g_ox, g_oy, none, none, g_sx, g_sy


@triton.jit
def _bounded(x, LOW: tl.constexpr, HIGH: tl.constexpr):
    return tl.minimum(tl.maximum(x, LOW), HIGH)


@triton.jit
def _distance_axis(p1, p2, t1, t2, eps):
    """Offset of the centres c, 1 / hull, c / hull."""
    extent = hull(p1, p2, t1, t2)
    inverse_hull = inverse(tl.where(extent >= eps, extent, eps))
    centre = ((t1 - p1) + (t2 - p2)) * 0.5 + eps
    return centre, inverse_hull, _bounded(centre * inverse_hull, -80.0, 80.0)


@triton.jit
def _distance_slopes(p1, p2, t1, t2, centre, inverse_hull, ratio, g_rho, g_angle, eps):
    """Derivatives to the hull and the shift."""
    g_centre = 2.0 * ratio * g_rho * inverse_hull
    sign = tl.where(centre > 0.0, 1.0, tl.where(centre < 0.0, -1.0, 0.0)).to(centre.dtype)
    g_hull = tl.where(hull(p1, p2, t1, t2) >= eps, -g_centre * ratio, 0.0)
    return g_hull, 0.5 * (g_centre + sign * g_angle)


@triton.jit
def _shape_extent(p, t):
    """Cost (1 - exp(-o))^4 of o = |p - t| / max(p, t), and half its derivatives to p and t."""
    inverse_larger = inverse(tl.maximum(p, t))
    exact = tl.abs(p - t) * inverse_larger
    omega = _bounded(exact, -20.0, 80.0)
    decay = tl.exp(-omega)
    cost = 1.0 - decay
    to_smaller = -2.0 * (cost * cost * cost) * decay
    smaller = tl.where(exact == omega, to_smaller, 0.0)
    larger = smaller * (omega - 1.0)
    p_part = wins(p, t)
    g_p = p_part * larger + (1.0 - p_part) * smaller
    g_t = p_part * smaller + (1.0 - p_part) * larger
    return (cost * cost) * (cost * cost), g_p, g_t, inverse_larger


@triton.jit
def siou(
    px1, py1, px2, py2, tx1, ty1, tx2, ty2, scale,
    EPS: tl.constexpr, UNION_EPS: tl.constexpr, NEG_GAMMA: tl.constexpr,
):  # fmt: skip
    pw, ph, tw, th = px2 - px1, py2 - py1, tx2 - tx1, ty2 - ty1
    eps = EPS * scale
    ox, oy = overlap(px1, px2, tx1, tx2), overlap(py1, py2, ty1, ty2)
    iw, ih = tl.maximum(ox, 0.0), tl.maximum(oy, 0.0)
    inter = iw * ih
    inverse_union = inverse(pw * ph + tw * th - inter + UNION_EPS * scale * scale)
    iou = inter * inverse_union
    cx, inverse_hx, ratio_x = _distance_axis(px1, px2, tx1, tx2, eps)
    cy, inverse_hy, ratio_y = _distance_axis(py1, py2, ty1, ty2, eps)
    rho_x, rho_y = ratio_x * ratio_x, ratio_y * ratio_y
    k = inverse(cx * cx + cy * cy)
    gamma = 2.0 - 2.0 * tl.abs(cx) * tl.abs(cy) * k
    if NEG_GAMMA:
        gamma = -gamma
    qx, qy = gamma * rho_x, gamma * rho_y
    ex, ey = tl.exp(_bounded(qx, -80.0, 80.0)), tl.exp(_bounded(qy, -80.0, 80.0))
    w_cost, g_pw, g_tw, inverse_w = _shape_extent(pw, tw)
    h_cost, g_ph, g_th, inverse_h = _shape_extent(ph + eps, th + eps)
    score = iou - 0.5 * ((2.0 - ex - ey) + (w_cost + h_cost))
    loss = 1.0 - _bounded(score, -1.0, 1.0)

    # Where the clamp holds, `is_open` makes every product 0: its other factors are finite.
    is_open = tl.where((score >= -1.0) & (score <= 1.0), 1.0, score * 0.0)
    g_area = is_open * iou * inverse_union
    g_inter = -is_open * inverse_union - g_area
    g_ox, g_oy = tl.where(ox >= 0.0, g_inter * ih, 0.0), tl.where(oy >= 0.0, g_inter * iw, 0.0)
    g_rho_x = tl.where(tl.abs(qx) <= 80.0, -0.5 * is_open * ex, 0.0)
    g_rho_y = tl.where(tl.abs(qy) <= 80.0, -0.5 * is_open * ey, 0.0)
    g_gamma = g_rho_x * rho_x + g_rho_y * rho_y
    swing = -2.0 * g_gamma * k * ((cy * cy - cx * cx) * k)
    if NEG_GAMMA:
        swing = -swing
    g_hx, g_sx = _distance_slopes(
        px1, px2, tx1, tx2, cx, inverse_hx, ratio_x, g_rho_x * gamma, swing * tl.abs(cy), eps
    )
    g_hy, g_sy = _distance_slopes(
        py1, py2, ty1, ty2, cy, inverse_hy, ratio_y, g_rho_y * gamma, -swing * tl.abs(cx), eps
    )
    g_pw, g_tw = is_open * g_pw * inverse_w + g_area * ph, is_open * g_tw * inverse_w + g_area * th
    g_ph, g_th = is_open * g_ph * inverse_h + g_area * pw, is_open * g_th * inverse_h + g_area * tw
    return loss, g_pw, g_ph, g_tw, g_th, g_ox, g_oy, g_hx, g_hy, g_sx, g_sy
