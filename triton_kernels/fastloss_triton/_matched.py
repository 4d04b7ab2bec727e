"""Class and box terms of the kernels of `matched_detection`; formulas: its reference."""

import triton
import triton.language as tl

from . import regression_loss
from ._boxes import scale_of
from ._common import power
from ._modulation import logistic, times
from .pairwise_iou import angle_of, pair_gradients, scaled_similarity


@triton.jit
def weight_of(
    label, class_weight, w_c, classes,
    KIND: tl.constexpr, WEIGHTED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Of labels, NaN for what is no class; for the focal loss `classes` says that it is none."""
    is_class = (label >= 0) & (label < classes)
    if WEIGHTED:
        w = tl.load(class_weight + label * w_c, mask=is_class, other=float("nan")).to(DTYPE)
    elif KIND == 2:
        w = tl.where(is_class | (label == classes), 1.0, float("nan")).to(DTYPE)
    else:
        w = tl.where(is_class, 1.0, float("nan")).to(DTYPE)
    return w


@triton.jit
def masses_at(
    matching, m_m, labels, mask, class_weight, w_c, c, rows, m, classes,
    KIND: tl.constexpr, WEIGHTED: tl.constexpr, MASKED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """h and, for the focal loss, o of the classes c (1, CB): (ROWS, CB). o is added up by itself,
    as the difference of all masses and h would lose the small ones."""
    h = tl.zeros((rows.shape[0], c.shape[1]), DTYPE)
    o = h
    for _ in range(m):
        label = tl.load(labels).to(tl.int64)
        used = rows
        if MASKED:
            used = rows & (tl.load(mask) != 0)
        mass = tl.load(matching, mask=used, other=0.0).to(DTYPE)  # (ROWS, 1)
        w = weight_of(label, class_weight, w_c, classes, KIND, WEIGHTED, DTYPE)
        mass = times(mass, w)
        own = c == tl.where(label < classes, label, -1)
        h += tl.where(own, mass, 0.0)
        if KIND == 2:
            o += tl.where(own, 0.0, mass)
        matching += m_m
        labels += 1
        mask += 1
    return h, o


@triton.jit
def focal_losses(x, ALPHA: tl.constexpr, GAMMA: tl.constexpr):
    """Of the right class and of a wrong one."""
    p, q, positive, negative = logistic(x)
    right, wrong = power(q, GAMMA) * positive, power(p, GAMMA) * negative
    if ALPHA >= 0.0:
        right, wrong = right * ALPHA, wrong * (1.0 - ALPHA)
    return right, wrong


@triton.jit
def focal_slopes(x, ALPHA: tl.constexpr, GAMMA: tl.constexpr):
    """The derivatives of `focal_losses`."""
    p, q, positive, negative = logistic(x)
    # Bounded, so that the logarithm of 0 times 0 is 0; what is NaN remains so by p.
    positive, negative = tl.minimum(positive, 1024.0), tl.minimum(negative, 1024.0)
    right = -power(q, GAMMA) * (p * positive * GAMMA + q)
    wrong = power(p, GAMMA) * (q * negative * GAMMA + p)
    if ALPHA >= 0.0:
        right, wrong = right * ALPHA, wrong * (1.0 - ALPHA)
    return right, wrong


@triton.jit
def load_targets(
    matching, m_m, labels, mask, j, rows, m,
    MASKED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Masses (ROWS, COLUMNS) and labels (COLUMNS) of the targets j."""
    real = j < m
    if MASKED:
        real = real & (tl.load(mask + j, mask=real, other=0) != 0)
    at = matching + j[None, :] * m_m
    mass = tl.load(at, mask=rows & real[None, :], other=0.0).to(DTYPE)
    return mass, tl.load(labels + j, mask=j < m, other=0).to(tl.int64)


@triton.jit
def load_own(logits, x_c, label, rows, classes, DTYPE: tl.constexpr):
    """The logits (ROWS, COLUMNS) of the labels (COLUMNS), 0 for what is no class."""
    is_class = (label >= 0) & (label < classes)
    at = logits + tl.where(is_class, label, 0)[None, :] * x_c
    return tl.load(at, mask=rows & is_class[None, :], other=0.0).to(DTYPE)


@triton.jit
def softmax_loss(own, top, total, KIND: tl.constexpr):
    if KIND == 0:
        loss = (top - own) + tl.log(total)
    else:
        loss = -tl.exp(own - top) / total
    return loss


@triton.jit
def pair_losses(
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2,
    DISTANCE: tl.constexpr, BETA: tl.constexpr, DISTANCE_WEIGHT: tl.constexpr,
    IOU_KIND: tl.constexpr, IOU_WEIGHT: tl.constexpr, EPS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Of boxes a (ROWS) and b (COLUMNS)."""
    a_angle = angle_of(ax1, ay1, ax2, ay2, EPS, IOU_KIND)[:, None]
    b_angle = angle_of(bx1, by1, bx2, by2, EPS, IOU_KIND)[None, :]
    ax1, ay1, ax2, ay2 = ax1[:, None], ay1[:, None], ax2[:, None], ay2[:, None]
    bx1, by1, bx2, by2 = bx1[None, :], by1[None, :], bx2[None, :], by2[None, :]
    s, loss = scale_of(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, DTYPE)  # loss: 0 or NaN
    if DISTANCE_WEIGHT != 0.0:
        distance = regression_loss.value(ax1 - bx1, BETA, 0.0, 0.0, 0.0, DISTANCE)
        distance += regression_loss.value(ay1 - by1, BETA, 0.0, 0.0, 0.0, DISTANCE)
        distance += regression_loss.value(ax2 - bx2, BETA, 0.0, 0.0, 0.0, DISTANCE)
        distance += regression_loss.value(ay2 - by2, BETA, 0.0, 0.0, 0.0, DISTANCE)
        loss += distance * DISTANCE_WEIGHT
    if IOU_WEIGHT != 0.0:
        iou = scaled_similarity(
            ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, s, EPS, IOU_KIND
        )[0]
        loss += (1.0 - iou) * IOU_WEIGHT
    return loss


@triton.jit
def pair_slopes(
    ax1, ay1, ax2, ay2, bx1, by1, bx2, by2,
    DISTANCE: tl.constexpr, BETA: tl.constexpr, DISTANCE_WEIGHT: tl.constexpr,
    IOU_KIND: tl.constexpr, IOU_WEIGHT: tl.constexpr, EPS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Derivatives of `pair_losses` to the coordinates of a."""
    a_angle = angle_of(ax1, ay1, ax2, ay2, EPS, IOU_KIND)[:, None]
    b_angle = angle_of(bx1, by1, bx2, by2, EPS, IOU_KIND)[None, :]
    ax1, ay1, ax2, ay2 = ax1[:, None], ay1[:, None], ax2[:, None], ay2[:, None]
    bx1, by1, bx2, by2 = bx1[None, :], by1[None, :], bx2[None, :], by2[None, :]
    s, poison = scale_of(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, DTYPE)
    g1, g2, g3, g4 = poison, poison, poison, poison
    if DISTANCE_WEIGHT != 0.0:
        g1 += regression_loss.derivative(ax1 - bx1, BETA, 0.0, 0.0, 0.0, DISTANCE) * DISTANCE_WEIGHT
        g2 += regression_loss.derivative(ay1 - by1, BETA, 0.0, 0.0, 0.0, DISTANCE) * DISTANCE_WEIGHT
        g3 += regression_loss.derivative(ax2 - bx2, BETA, 0.0, 0.0, 0.0, DISTANCE) * DISTANCE_WEIGHT
        g4 += regression_loss.derivative(ay2 - by2, BETA, 0.0, 0.0, 0.0, DISTANCE) * DISTANCE_WEIGHT
    if IOU_WEIGHT != 0.0:
        k = s * IOU_WEIGHT
        i1, i2, i3, i4, _, _, _, _, _, _ = pair_gradients(
            ax1, ay1, ax2, ay2, a_angle, bx1, by1, bx2, by2, b_angle, s, k, k, k,
            EPS, IOU_KIND, True,
        )  # fmt: skip
        g1, g2, g3, g4 = g1 - i1, g2 - i2, g3 - i3, g4 - i4
    return g1, g2, g3, g4
