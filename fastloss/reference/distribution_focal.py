r"""Distribution focal loss: cross entropy of a distribution over integers with a real number.

x (N, n + 1) are logits of the integers 0 ... n, t (N,) real numbers in [0, n), p = softmax(x). With
k = trunc(t), the integer to the left of t, the loss of a row is

    (k + 1 - t) (-ln p_k) + (t - k) (-ln p_{k+1})

with the derivatives

    dl/dx_c = p_c - (k + 1 - t) [c = k] - (t - k) [c = k + 1]        dl/dt = x_k - x_{k+1}

of which the second is that of the piece: k is a constant. Where t is outside [0, n), or NaN, both
are NaN (see `check` for CPU and debug mode). Weights of the rows and reduction: `_reduce`.

Sources: Li et al. arXiv 2006.04388 (GFL), eq. 6; mmdet 3.3.0 `models/losses/gfocal_loss.py`.
"""

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread


def check(logits: Tensor, target: Tensor, *rest: object) -> None:
    """Raise IndexError for the first target outside [0, n); reads the target's values."""
    n = logits.shape[1] - 1
    position = (~((target >= 0) & (target < n))).nonzero()
    if len(position):
        i = int(position[0])
        raise IndexError(f"target must be in [0, {n}); got {float(target[i]):g} at index {i}")


def _prepare(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, n + 1), NaN where the target is outside; k and k + 1, and their shares of the loss
    (N, 2)."""
    x, t = logits.to(compute_dtype(logits)), target.to(compute_dtype(logits))[:, None]
    known = (t >= 0) & (t < x.shape[1] - 1)
    k = torch.where(known, t, 0).detach().trunc()
    shares = torch.cat((k + 1 - t, t - k), 1)
    return x.masked_fill(~known, torch.nan), torch.cat((k, k + 1), 1).long(), shares


def _loss(log_p: Tensor, sides: Tensor, shares: Tensor) -> Tensor:
    return -(shares * log_p.gather(1, sides)).sum(1)


def forward(
    logits: Tensor,  # (N, n + 1)
    target: Tensor,  # (N,)
    weight: Tensor | None,  # (N,)
    avg_factor: Tensor | None,  # ()
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (N,) for "none", () otherwise."""
    x, sides, shares = _prepare(logits, target)
    loss = _loss(x.log_softmax(1), sides, shares)
    out = result_dtype(logits, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, len(loss), out)


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits, target and weight."""
    x, sides, shares = _prepare(logits, target)
    log_p = x.log_softmax(1)
    loss = _loss(log_p, sides, shares)
    g = spread(grad, loss, avg_factor, divisor, reduction, len(loss))
    g_row = (g if weight is None else g * weight.to(g.dtype))[:, None]
    x_left, x_right = x.gather(1, sides).unbind(1)
    g_x = g_row * log_p.exp().scatter_add(1, sides, -shares)
    g_t = g_row[:, 0] * (x_left - x_right)
    weight_dtype = logits.dtype if weight is None else weight.dtype
    return gradients(
        needs, logits, (g_x, logits.dtype), (g_t, target.dtype), (g * loss, weight_dtype)
    )
