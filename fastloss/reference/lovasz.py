r"""Lovász losses: the convex extension of the Jaccard loss of a set of pixels, by sorting.

A problem is the errors e and labels t in [0, 1] of P pixels, e sorted descending (equal errors in
the order of the pixels). With I_i the sum of t after the first i pixels and U_i = i + I_i, the
Jaccard loss of the first i being wrong is J_i = 1 - I_i / U_i = i / U_i, and

    value = sum_i max(e_i, 0) (J_i - J_{i-1}),   J_0 = 0

The increment is taken as (t_i + (1 - t_i) r_i) / U_i with r_i = I_{i-1} / U_{i-1}, r_1 = 1, not as
the difference of nearly equal numbers. Ignored pixels have error -inf and label 0: they come last
and count nothing. The order is held constant in the gradient.

    softmax        e = |t - p|, p = softmax(x) over C, t = [class = label], one problem per class;
                   mean over the classes present, all, or those listed
    probabilities  likewise with p = x
    hinge          e = 1 - x (2 t - 1); differentiable in t too

One problem is a batch, or an image if `per_image`, and the values of images are then reduced. An
image without valid pixels has value 0 and counts. A label out of range makes the value of its group
NaN, or counts as background of every class if not `strict` (see `check` for CPU and debug mode).

Source: Berman et al. arXiv 1705.08790, segmentation_models_pytorch 0.6.0 `losses/lovasz.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread
from .segmentation_table import check_indices

KINDS = ("softmax", "probabilities", "hinge")


def check(
    logits: Tensor,
    target: Tensor,
    kind: str,
    present: bool,
    classes: Sequence[int] | None,
    per_image: bool,
    ignore_index: int | None,
    strict: bool,
    *rest: object,
) -> None:
    """Raise IndexError for the first class index out of range; reads the target's values."""
    if strict and kind != "hinge":
        check_indices(target, logits.shape[1], ignore_index)


class Pixels(NamedTuple):
    """Each (N, C, P), or (N, 1, P) for `valid`."""

    x: Tensor
    p: Tensor  # probabilities; x for hinge
    t: Tensor
    valid: Tensor
    error: Tensor  # -inf where ignored


def pixels(
    logits: Tensor, target: Tensor, kind: str, ignore_index: int | None, strict: bool,
    hard: bool = False,
) -> Pixels:  # fmt: skip
    """The errors of all pixels; `hard` makes targets of hinge 0 or 1."""
    x = logits.to(compute_dtype(logits)).contiguous()
    if not target.is_floating_point():
        target = target.long()  # a small integer type could not hold ignore_index
    target = target.view_as(logits) if kind == "hinge" else target[:, None]
    valid = torch.ones_like(target, dtype=torch.bool)
    if ignore_index is not None:
        valid = target != ignore_index
    x = x.masked_fill(~valid, 0)
    if kind == "hinge":
        p, t = x, torch.where(valid, target, 0).to(x.dtype)
        t = torch.where(t.isnan(), t, (t > 0.5).to(x.dtype)) if hard else t
        error = 1 - x * (2 * t - 1)
    else:
        p, classes = x.softmax(1) if kind == "softmax" else x, x.shape[1]
        t = (target == torch.arange(classes, device=x.device)[:, None]) & valid
        t = t.to(x.dtype)
        if strict:
            t = t.masked_fill(((target < 0) | (target >= classes)) & valid, torch.nan)
        error = (t - p).abs()
    return Pixels(x, p, t, valid, error.masked_fill(~valid, -torch.inf))


def _grouped(x: Tensor, per_image: bool) -> Tensor:
    """(N, C, P) -> (G, C, pixels of a group)."""
    return x if per_image else x.transpose(0, 1).reshape(1, x.shape[1], x.shape[0] * x.shape[2])


def _ungrouped(x: Tensor, shape: torch.Size, per_image: bool) -> Tensor:
    """The inverse of `_grouped`."""
    return x if per_image else x.view(shape[1], shape[0], shape[2]).transpose(0, 1)


class _Sorted(NamedTuple):
    """Each (G, C, pixels of a group), in descending order of the error; float64 but for `order`."""

    order: Tensor
    error: Tensor  # max(e, 0)
    jump: Tensor  # J_i - J_{i-1}
    slope: Tensor  # the derivative of J_i with respect to I_i


def _sort(s: Pixels, per_image: bool) -> _Sorted:
    error, order = _grouped(s.error, per_image).sort(dim=-1, descending=True, stable=True)
    t = _grouped(s.t, per_image).gather(-1, order).double()
    rank = torch.arange(1, t.shape[-1] + 1, dtype=t.dtype, device=t.device)
    after = t.sum(-1, keepdim=True) - t.cumsum(-1)  # I
    union = rank + after
    before = torch.cat((torch.ones_like(t[..., :1]), (after / union)[..., :-1]), -1)  # r
    jump = (t + (1 - t) * before) / union
    return _Sorted(order, error.clamp(min=0).double(), jump, -rank / union.square())


def class_factors(there: Tensor, present: bool, classes: Sequence[int] | None) -> Tensor:
    """The factor of the value of every class, (G, C) or broadcast to it, from the classes that
    occur in every group (G, C)."""
    count = there.shape[1]
    if classes is not None:
        factor = torch.zeros(count, dtype=torch.float64, device=there.device)
        for c in classes:
            factor[c] += 1 / len(classes)
        return factor
    if not present:
        return torch.full((count,), 1 / max(count, 1), dtype=torch.float64, device=there.device)
    return there.double() / there.sum(-1, keepdim=True).clamp(min=1)


def _occurring(s: Pixels, per_image: bool) -> Tensor:
    """The classes of every group (G, C); NaN counts: its value is NaN."""
    return _grouped(s.t != 0, per_image).any(-1)


def through_error(s: Pixels, slope: Tensor, kind: str) -> Tensor:
    """The gradient of the logits, (N, C, P), from that of max(e, 0)."""
    if kind == "hinge":
        return slope * s.error.sign().clamp(min=0) * (1 - 2 * s.t)
    g_p = torch.where(s.valid, slope * (s.p - s.t).sign(), 0)
    return s.p * (g_p - (s.p * g_p).sum(1, keepdim=True)) if kind == "softmax" else g_p


def forward(
    logits: Tensor,  # (N, C, P); (N, 1, P) for hinge
    target: Tensor,  # (N, P)
    kind: str,
    present: bool,
    classes: Sequence[int] | None,
    per_image: bool,
    ignore_index: int | None,
    strict: bool,
    reduction: str,
    widen: bool,
) -> Tensor:
    """(G,) for reduction "none", else a scalar."""
    s = pixels(logits, target, kind, ignore_index, strict)
    sort = _sort(s, per_image)
    values = (sort.error * sort.jump).sum(-1)  # (G, C)
    if kind != "hinge":
        factor = class_factors(_occurring(s, per_image), present, classes)
        values = torch.where(factor == 0, 0, values * factor)
    values = values.sum(-1)
    return reduce(values, None, None, None, reduction, len(values), result_dtype(logits, widen))


def backward(
    grad: Tensor,  # (G,) or scalar
    logits: Tensor,
    target: Tensor,
    kind: str,
    present: bool,
    classes: Sequence[int] | None,
    per_image: bool,
    ignore_index: int | None,
    strict: bool,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to the logits and, for hinge, to a floating-point target."""
    s = pixels(logits, target, kind, ignore_index, strict)
    sort = _sort(s, per_image)
    values = sort.jump.new_empty(len(sort.jump))
    g = spread(grad, values, None, None, reduction, len(values))[:, None]  # (G, 1)
    if kind != "hinge":
        g = g * class_factors(_occurring(s, per_image), present, classes)

    def unsorted(x: Tensor) -> Tensor:
        """g x in the place of its pixel and class, (N, C, P)."""
        x = torch.where(g[..., None] == 0, 0, g[..., None] * x)
        x = torch.zeros_like(x).scatter(-1, sort.order, x).to(s.x.dtype)
        return _ungrouped(x, s.x.shape, per_image)

    jump, g_t = unsorted(sort.jump), None
    if kind == "hinge" and target.is_floating_point():
        # The value is also sum_i (e_i - e_{i+1}) J_i, and t_j is part of I_i where i < j.
        drop = (sort.error[..., :-1] - sort.error[..., 1:]) * sort.slope[..., :-1]
        before = torch.cat((torch.zeros_like(sort.error[..., :1]), drop.cumsum(-1)), -1)
        wrong = jump * s.error.sign().clamp(min=0)  # the derivative of max(e, 0)
        g_t = unsorted(before[..., : sort.error.shape[-1]]) - 2 * s.x * wrong
        g_t = torch.where(s.valid, g_t, 0).view_as(target)
    g_x = through_error(s, jump, kind)
    result = gradients(needs, logits, (g_x, logits.dtype), (g_t, target.dtype))
    if needs & 1:  # in the layout of the logits
        result[0] = torch.empty_like(logits).copy_(result[0])
    return result
