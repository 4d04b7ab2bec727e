"""Sigmoid, binary cross entropy and the focal factor of the segmentation kernels; formulas:
fastloss/reference/segmentation_table.py."""

import triton
import triton.language as tl

from ._common import log1p_unit, power, power_slope


@triton.jit
def logistic(x):
    """sigmoid(x), sigmoid(-x), softplus(-x), softplus(x)."""
    e = tl.exp(-tl.abs(x))
    r = 1.0 / (1.0 + e)
    tail = log1p_unit(e)
    return (
        tl.where(x < 0.0, e * r, r),
        tl.where(x < 0.0, r, e * r),
        tl.where(x < 0.0, -x, 0.0) + tail,
        tl.where(x > 0.0, x, 0.0) + tail,
    )


@triton.jit
def times(t, loss):
    """t loss, and 0 where t = 0 whatever the loss."""
    return tl.where(t == 0.0, 0.0, t * loss)


@triton.jit
def one_minus_exp(b):
    """1 - exp(-b), and exp(-b): the rounding of the latter is undone by the quotient (Kahan)."""
    u = tl.exp(-b)
    near = (u > 0.5) & (u < 2.0) & (u != 1.0)
    quotient = (1.0 - u) * (b / -tl.log(tl.where(near, u, 0.5)))
    return tl.where(near, quotient, tl.where(u == 1.0, b, 1.0 - u)), u


@triton.jit
def binary(t, p, q, positive, negative, HARD: tl.constexpr):
    """The binary cross entropy b, 1 - exp(-b), exp(-b), and db/dx; HARD: t is 0 or 1 (or NaN)."""
    if HARD:
        b = tl.where(t == 1.0, positive, negative)
        m, u = tl.where(t == 1.0, q, p), tl.where(t == 1.0, p, q)
    else:
        b = times(t, positive) + times(1.0 - t, negative)
        m, u = one_minus_exp(b)
    return b, m, u, p * (1.0 - t) - q * t


@triton.jit
def modulation(m, u, GAMMA: tl.constexpr, THRESHOLD: tl.constexpr):
    """f at m = 1 - exp(-b), u = exp(-b)."""
    if THRESHOLD is None:
        value = power(m, GAMMA)
    else:
        value = tl.where(u < THRESHOLD, 1.0, power(m / THRESHOLD, GAMMA))
    return value


@triton.jit
def modulation_slope(m, u, GAMMA: tl.constexpr, THRESHOLD: tl.constexpr):
    """df/db, finite where m = 0."""
    if THRESHOLD is None:
        slope = power_slope(m, GAMMA) * u
    else:
        slope = power_slope(m / THRESHOLD, GAMMA) * (u / THRESHOLD)
        slope = tl.where(u < THRESHOLD, 0.0, slope)
    return slope


@triton.jit
def focal_slope(b, m, u, GAMMA: tl.constexpr, THRESHOLD: tl.constexpr):
    """Derivatives of f(b) b and of f(b); where b is infinite, that of f is 0."""
    slope = modulation_slope(m, u, GAMMA, THRESHOLD)
    product = tl.where(slope == 0.0, 0.0, slope * b)
    return product + modulation(m, u, GAMMA, THRESHOLD), slope


@triton.jit
def balance(t, ALPHA: tl.constexpr):
    """alpha t + (1 - alpha) (1 - t), or 1."""
    if ALPHA is None:
        a = tl.zeros_like(t) + 1.0
    else:
        a = ALPHA * t + (1.0 - ALPHA) * (1.0 - t)
    return a
