r"""Softmax cross entropy and softmax focal loss of every pixel.

x (N, C, P) are logits, y (N, P) class indices, p = softmax(x) over C, w (C) class weights (1 if not
given). The loss of a pixel is

    w_y ((1 - s) f(-ln p_y) (-ln p_y)) + s / C sum_c w_c (-ln p_c)

with the label smoothing s and the factor f(b) of `segmentation_table` (1 for gamma = 0). It is 0
where y = ignore_index and NaN where y is out of range (see `segmentation_table.check_indices` for
CPU and debug mode). Where the incoming gradient is 0, so is that of the logits, whatever they are.

Sources: torch.nn.functional.cross_entropy; Lin et al. arXiv 1708.02002.
"""

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, result_dtype
from .segmentation_table import check_indices, modulation, modulation_slope


def check(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int | None,
    *rest: object,
) -> None:
    """Raise IndexError for the first class index out of range; reads the target's values."""
    check_indices(target, logits.shape[1], ignore_index)


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


def forward(
    logits: Tensor,  # (N, C, P)
    target: Tensor,  # (N, P)
    class_weight: Tensor | None,  # (C,)
    ignore_index: int | None,
    smoothing: float,
    gamma: float,
    threshold: float | None,
    widen: bool,
) -> Tensor:
    """Loss of every pixel, (N, P)."""
    log_p, hot, valid, w, w_y = _prepare(logits, target, class_weight, ignore_index)
    nll = torch.where(hot, -log_p, 0).sum(1, keepdim=True)
    loss = (1 - smoothing) * w_y * modulation(nll, gamma, threshold) * nll
    if smoothing:
        loss = loss - smoothing / log_p.shape[1] * (w * log_p).sum(1, keepdim=True)
    loss = torch.where(log_p[:, :1].isnan(), torch.nan, loss)
    return torch.where(valid, loss, 0)[:, 0].to(result_dtype(logits, widen)).contiguous()


def backward(
    grad: Tensor,  # (N, P)
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int | None,
    smoothing: float,
    gamma: float,
    threshold: float | None,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradient to the logits."""
    log_p, hot, valid, w, w_y = _prepare(logits, target, class_weight, ignore_index)
    nll, p = torch.where(hot, -log_p, 0).sum(1, keepdim=True), log_p.exp()
    slope = modulation_slope(nll, gamma, threshold)
    slope = torch.where(slope == 0, 0, slope * nll) + modulation(nll, gamma, threshold)
    g = (1 - smoothing) * w_y * slope * (p - hot.to(p.dtype))
    if smoothing:
        g = g + smoothing / p.shape[1] * (p * w.sum() - w)
    grad = grad.to(g.dtype)[:, None]
    g = torch.where(valid & (grad != 0), grad * g, 0)
    (result,) = gradients(needs, logits, (g, logits.dtype))
    return [torch.empty_like(logits).copy_(result)] if needs & 1 else [result]
