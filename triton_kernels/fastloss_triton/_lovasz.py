"""What the Triton kernels of the Lovász losses share: targets, errors, the way back."""

import triton
import triton.language as tl

from ._pixels import load_labels

SOFTMAX: tl.constexpr = tl.constexpr(0)
PROBABILITIES: tl.constexpr = tl.constexpr(1)
HINGE: tl.constexpr = tl.constexpr(2)
KINDS = ("softmax", "probabilities", "hinge")


@triton.jit
def load_targets(
    target, p, t_p, c, ignore_index, classes, pixels,
    KIND: tl.constexpr, STRICT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """t of classes c (CB, 1) at pixels p (PB), (CB, PB), and which pixels are valid, (PB). A label
    out of range is NaN if STRICT, else background."""
    if KIND == HINGE:
        raw = tl.load(target + p * t_p, mask=p < pixels, other=0)
        valid = (raw != ignore_index) & (p < pixels)
        t = tl.where(valid, raw.to(DTYPE), 0.0)[None, :]
    else:
        label, inside, valid = load_labels(target, p, t_p, ignore_index, classes, pixels)
        t = tl.where(c == label[None, :], 1.0, 0.0).to(DTYPE)
        if STRICT:
            t = tl.where(inside[None, :], t, float("nan"))
        t = tl.where(valid[None, :], t, 0.0)
    return t, valid


@triton.jit
def error_of(p, t, KIND: tl.constexpr):
    """The error of probabilities p, or of the logits of hinge."""
    if KIND == HINGE:
        error = 1.0 - p * (2.0 * t - 1.0)
    else:
        error = tl.abs(t - p)
    return error


@triton.jit
def through_error(p, t, valid, slope, KIND: tl.constexpr):
    """The gradient of the logits of a tile (C, P) from that of max(error, 0)."""
    if KIND == HINGE:
        g = tl.where(error_of(p, t, KIND) > 0.0, slope, 0.0) * (1.0 - 2.0 * t)
        g = tl.where(valid[None, :], g, 0.0)
    else:
        g = tl.where(p > t, slope, tl.where(p < t, -slope, 0.0))
        g = tl.where(valid[None, :], g, 0.0)
        if KIND == SOFTMAX:
            g = tl.where(valid[None, :], p * (g - tl.sum(p * g, 0)[None, :]), 0.0)
    return g
