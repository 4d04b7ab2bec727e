r"""Seesaw loss: softmax cross entropy whose negative classes weigh more or less.

x (N, C) are logits, i (N) the class of each row, n (C) how often each class was seen so far,
s = softmax(x), without a gradient. To the logit of every class j but the row's own is added

    p min(0, ln n_j - ln n_i) + q max(0, ln s_j - ln max(s_i, eps))        n at least 1

(mitigation: rarer classes are punished less; compensation: classes that are scored too high are
punished more), which makes z (N, C). p <= 0 or q <= 0 leaves its term out. The loss of a row is

    l = ln sum_j e^(z_j) - x_i        dl/dx_j = softmax(z)_j - [j = i]

The distance of s_j from max(s_i, eps) is taken as x_j - max(x_i, ln sum e^x + ln eps), which is
exact where both are large. A row with a NaN, an infinite largest logit, or a class out of range has
the loss NaN (see `check` for CPU and debug mode); i = C is background: loss and gradient 0,
whatever the logits. Weights of the rows and reduction: `_reduce`, n = N.

Sources: Wang et al. arXiv 2008.10032; mmdet 3.3.0 `models/losses/seesaw_loss.py`.
"""

import math

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread
from .segmentation_table import check_indices


def check(logits: Tensor, target: Tensor, *rest: object) -> None:
    """Raise IndexError for the first class out of range; reads the target's values."""
    check_indices(target, logits.shape[1], logits.shape[1])


def _prepare(
    logits: Tensor, target: Tensor, class_count: Tensor, p: float, q: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """z (N, C), NaN for rows out of range and 0 for background; one-hot (N, C); background (N)."""
    x, label = logits.to(compute_dtype(logits)), target.long()[:, None]  # (N, 1)
    classes = x.shape[1]
    hot = label == torch.arange(classes, device=x.device)
    background = label == classes
    x = x.masked_fill(((label < 0) | (label > classes)), torch.nan).masked_fill(background, 0)
    added = torch.zeros_like(x)
    if p > 0:
        count = class_count.to(x.dtype).clamp(min=1).log()
        own = torch.where(hot, count, 0).sum(1, keepdim=True)
        added = added + p * (count - own).clamp(max=0)
    if q > 0:
        s = x.detach()
        own = torch.where(hot, s, 0).sum(1, keepdim=True)
        floor = own.maximum(s.logsumexp(1, keepdim=True) + math.log(eps))
        added = added + q * (s - floor).clamp(min=0)
    return x + torch.where(hot, 0, added), hot, background[:, 0]


def _losses(z: Tensor, hot: Tensor, background: Tensor) -> Tensor:
    """The loss of each row (N)."""
    nll = -torch.where(hot, z.log_softmax(1), 0).sum(1)
    # A row out of range has no class of its own.
    nll = torch.where(hot.any(1), nll, z.sum(1))
    return torch.where(background, 0, nll)


def forward(
    logits: Tensor,  # (N, C)
    target: Tensor,  # (N,), C is background
    class_count: Tensor,  # (C,)
    weight: Tensor | None,  # (N,)
    avg_factor: Tensor | None,  # ()
    p: float,
    q: float,
    eps: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (N,) for "none", () otherwise."""
    loss = _losses(*_prepare(logits, target, class_count, p, q, eps))
    out = result_dtype(logits, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, len(loss), out)


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    class_count: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    p: float,
    q: float,
    eps: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits and weight."""
    z, hot, background = _prepare(logits, target, class_count, p, q, eps)
    loss = _losses(z, hot, background)
    g = spread(grad, loss, avg_factor, divisor, reduction, len(loss))
    g_row = g if weight is None else g * weight.to(g.dtype)
    g_x = g_row[:, None] * (z.softmax(1) - hot.to(z.dtype))
    weight_dtype = logits.dtype if weight is None else weight.dtype
    return gradients(
        needs,
        logits,
        (torch.where(background[:, None], 0, g_x), logits.dtype),
        (g * loss, weight_dtype),
    )
