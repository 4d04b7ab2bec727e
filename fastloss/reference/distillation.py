r"""Distillation: divergence of the classes of a student from those of a teacher.

x (N, C) are logits of the student, y (N, C) of the teacher; p = softmax(x / T), q = softmax(y / T)
with the temperature T, and q is a constant. The loss of a row is

    l = T^2 / C sum_c q_c (ln q_c - ln p_c)        dl/dx_c = T / C (p_c - q_c)

with 0 ln 0 = 0, so that classes which the teacher, or both, exclude (-inf) add nothing. Because
p and q sum to 1, it is with d = ln p - ln q also

    l = T^2 / C sum_c q_c (e^(d_c) - 1 - d_c)

whose terms are all >= 0: where student and teacher are nearly alike, as they become in training and
as a high temperature makes them, the loss keeps its relative accuracy. A term with q_c = 0 is p_c.
Weights of the rows and reduction: `_reduce`.

Sources: Hinton et al. arXiv 1503.02531; mmdet 3.3.0 `models/losses/kd_loss.py`.
"""

import torch
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread


def _prepare(logits: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """p, q and d = ln p - ln q (N, C), 0 where q is."""
    x, y = (z.to(compute_dtype(logits)) for z in (logits, teacher.detach()))
    # Less the largest, so that the quotient is not rounded where all logits are large.
    x, y = ((z - z.detach().amax(1, keepdim=True)) / temperature for z in (x, y))
    log_p, log_q = x.log_softmax(1), y.log_softmax(1)
    q = log_q.exp()
    return log_p.exp(), q, torch.where(q == 0, 0, log_p - log_q)


def _loss(p: Tensor, q: Tensor, d: Tensor, temperature: float) -> Tensor:
    near = d.clamp(max=1)  # beyond it e^d may overflow, and q e^d = p is as exact
    terms = torch.where(d < 1, q * (torch.expm1(near) - near), (p - q) - q * d)
    return torch.where(q == 0, p, terms).sum(1) * (temperature**2 / p.shape[1])


def forward(
    logits: Tensor,  # (N, C)
    teacher: Tensor,  # (N, C)
    weight: Tensor | None,  # (N,)
    avg_factor: Tensor | None,  # ()
    temperature: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (N,) for "none", () otherwise."""
    loss = _loss(*_prepare(logits, teacher, temperature), temperature)
    out = result_dtype(logits, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, len(loss), out)


def backward(
    grad: Tensor,
    logits: Tensor,
    teacher: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    temperature: float,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits and weight."""
    p, q, d = _prepare(logits, teacher, temperature)
    loss = _loss(p, q, d, temperature)
    g = spread(grad, loss, avg_factor, divisor, reduction, len(loss))
    g_row = g if weight is None else g * weight.to(g.dtype)
    g_x = g_row[:, None] * (p - q) * (temperature / p.shape[1])
    weight_dtype = logits.dtype if weight is None else weight.dtype
    return gradients(needs, logits, (g_x, logits.dtype), (g * loss, weight_dtype))
