r"""Softmax cross entropy of every pixel.

x (N, C, P) are logits, y (N, P) class indices, p = softmax(x) over C, w (C) class weights (1 if not
given). The loss of a pixel is

    w_y (1 - s) (-ln p_y) + s / C sum_c w_c (-ln p_c)

with the label smoothing s. It is 0 where y = ignore_index and NaN where y is out of range (see
`segmentation_table.check_indices` for CPU and debug mode). Where the incoming gradient is 0, so is
that of the logits, whatever they are. Weights of the pixels and reduction: `_reduce`, where n is
the sum of w_y over the pixels that are not ignored; the mean over nothing is 0.

Source: torch.nn.functional.cross_entropy.
"""

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread
from .segmentation_table import check_indices


def check(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    ignore_index: int | None,
    *rest: object,
) -> None:
    """Raise IndexError for the first class index out of range; reads the target's values."""
    check_indices(target, logits.shape[1], ignore_index)


def average(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    avg_factor: Tensor | None,
    ignore_index: int | None,
    divisor: float | None,
    reduction: str,
) -> Tensor | None:
    """The divisor of "mean" where it is a tensor, (): if none is given the sum of w_y over the
    pixels that count, above 0 so that the mean over nothing is 0."""
    if reduction != "mean" or avg_factor is not None or divisor is not None:
        return avg_factor
    dtype = compute_dtype(logits)
    w_y = torch.ones((), dtype=dtype, device=target.device)
    if class_weight is not None:
        w_y = class_weight.to(dtype)[target.long().clamp(0, len(class_weight) - 1)]
    if ignore_index is not None:
        w_y = torch.where(target == ignore_index, 0, w_y)
    return w_y.expand(target.shape).sum().clamp(min=torch.finfo(dtype).tiny)


def _prepare(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ln p (N, C, P), one-hot (N, C, P), valid (N, 1, P), w (C, 1), w_y (N, 1, P)."""
    x, label = logits.to(compute_dtype(logits)), target.long()[:, None]  # (N, 1, P)
    valid = torch.ones_like(label, dtype=torch.bool)
    if ignore_index is not None:
        valid = label != ignore_index
    bad = ((label < 0) | (label >= x.shape[1])) & valid
    hot = label == torch.arange(x.shape[1], device=x.device)[:, None]
    w = x.new_ones(x.shape[1]) if class_weight is None else class_weight.to(x.dtype)
    w_y = torch.where(hot, w[:, None], 0).sum(1, keepdim=True)
    # An ignored NaN must not make torch's own derivative NaN.
    x = x.masked_fill(bad, torch.nan).masked_fill(~valid, 0)
    return x.log_softmax(1), hot, valid, w[:, None], w_y


def _losses(log_p: Tensor, hot: Tensor, valid: Tensor, w: Tensor, w_y: Tensor, s: float) -> Tensor:
    """Loss of every pixel, (N, P)."""
    loss = (1 - s) * w_y * torch.where(hot, -log_p, 0).sum(1, keepdim=True)
    if s:
        loss = loss - s / log_p.shape[1] * (w * log_p).sum(1, keepdim=True)
    loss = torch.where(log_p[:, :1].isnan(), torch.nan, loss)
    return torch.where(valid, loss, 0)[:, 0]


def forward(
    logits: Tensor,  # (N, C, P)
    target: Tensor,  # (N, P)
    class_weight: Tensor | None,  # (C,)
    weight: Tensor | None,  # (N, P)
    avg_factor: Tensor | None,  # ()
    ignore_index: int | None,
    smoothing: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (N, P) for "none", () otherwise."""
    loss = _losses(*_prepare(logits, target, class_weight, ignore_index), smoothing)
    total = average(logits, target, class_weight, avg_factor, ignore_index, divisor, reduction)
    out = result_dtype(logits, widen)
    return reduce(loss, weight, total, divisor, reduction, loss.numel(), out)


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    ignore_index: int | None,
    smoothing: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits and weight."""
    prepared = _prepare(logits, target, class_weight, ignore_index)
    log_p, hot, valid, w, w_y = prepared
    loss, p = _losses(*prepared, smoothing), log_p.exp()
    total = average(logits, target, class_weight, avg_factor, ignore_index, divisor, reduction)
    g = spread(grad, loss, total, divisor, reduction, loss.numel())
    g_pixel = (g if weight is None else g * weight.to(g.dtype))[:, None]
    g_x = (1 - smoothing) * w_y * (p - hot.to(p.dtype))
    if smoothing:
        g_x = g_x + smoothing / p.shape[1] * (p * w.sum() - w)
    g_x = torch.where(valid & (g_pixel != 0), g_pixel * g_x, 0)
    weight_dtype = logits.dtype if weight is None else weight.dtype
    g_logits, g_weight = gradients(needs, logits, (g_x, logits.dtype), (g * loss, weight_dtype))
    return [torch.empty_like(logits).copy_(g_logits) if needs & 1 else g_logits, g_weight]
