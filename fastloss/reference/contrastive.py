r"""Multi-positive cross entropy of rows of similarities (QDTrack).

x (N, M) are similarities, t (N, M) says which pairs are positive (1) and negative (0); pairs with
any other target take no part. With the positives P and the negatives Q of a row its loss is

    l = ln(1 + sum_{p in P} sum_{q in Q} e^(x_q - x_p)) = softplus(z)
    z = ln sum_{q in Q} e^(x_q) + ln sum_{p in P} e^(-x_p)

and 0, with a gradient of 0, for a row without positives or without negatives. With `others`, pairs
with another target are in both sets with a similarity of 0, and have no gradient. The sums are
taken relative to their largest terms, e^a = max_q e^(x_q) and e^(-b) = max_p e^(-x_p), so that
z = (a - b) + ln S_Q + ln S_P is as exact as the difference a - b whatever the similarities are:

    dl/dx_q = sigma(z) e^(x_q - a) / S_Q        dl/dx_p = -sigma(z) e^(b - x_p) / S_P

Infinite largest terms make l infinite and have the gradient between them. Weights of the rows and
reduction: `_reduce`, n = N.

Sources: Pang et al. arXiv 2006.06664 (QDTrack); vis4d 1.0.0 `op/loss/multi_pos_cross_entropy.py`,
which goes through all pairs of P and Q.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread


def _exponentials(x: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a (N, 1), e^(x - a) (N, M), which is 0 for what is no member, and the sum S of it (N, 1)."""
    x = torch.where(members, x, -torch.inf)
    a = F.pad(x.detach(), (0, 1), value=-torch.inf).amax(1, keepdim=True)
    gap = torch.where(x.isinf() & (x == a), 0, x - a)
    e = torch.where(members, gap, -torch.inf).exp()
    return a, e, e.sum(1, keepdim=True)


def _softplus(z: Tensor) -> Tensor:
    """ln(1 + e^z), 0 at -inf; also far from 0, where torch's own turns to z."""
    return z.clamp(min=0) + torch.log1p((-z.abs()).exp())


def _prepare(logits: Tensor, target: Tensor, others: bool) -> tuple[Tensor, ...]:
    """z (N, 1), -inf for rows that have no loss, and the shares in the sums of negatives and of
    positives (N, M)."""
    x = logits.to(compute_dtype(logits))
    positive, negative = target == 1, target == 0
    other = ~(positive | negative) if others else torch.zeros_like(positive)
    x = torch.where(positive | negative, x, 0)
    a, e_q, sum_q = _exponentials(x, negative | other)
    minus_b, e_p, sum_p = _exponentials(-x, positive | other)
    empty = (sum_q == 0) | (sum_p == 0)
    sum_q, sum_p = sum_q.masked_fill(empty, 1), sum_p.masked_fill(empty, 1)
    z = torch.where(empty, -torch.inf, a + minus_b) + (sum_q.log() + sum_p.log())
    return z, torch.where(negative, e_q / sum_q, 0), torch.where(positive, e_p / sum_p, 0)


def forward(
    logits: Tensor,  # (N, M)
    target: Tensor,  # (N, M), any dtype
    weight: Tensor | None,  # (N,)
    avg_factor: Tensor | None,  # ()
    others: bool,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (N,) for "none", () otherwise."""
    loss = _softplus(_prepare(logits, target, others)[0][:, 0])
    out = result_dtype(logits, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, len(loss), out)


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    others: bool,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits and weight."""
    z, share_q, share_p = _prepare(logits, target, others)
    loss = _softplus(z[:, 0])
    g = spread(grad, loss, avg_factor, divisor, reduction, len(loss))
    g_row = g if weight is None else g * weight.to(g.dtype)
    g_x = g_row[:, None] * z.sigmoid() * (share_q - share_p)
    takes_part = ((target == 0) | (target == 1)) & (z != -torch.inf)
    weight_dtype = logits.dtype if weight is None else weight.dtype
    return gradients(
        needs,
        logits,
        (torch.where(takes_part, g_x, 0), logits.dtype),
        (g * loss, weight_dtype),
    )
