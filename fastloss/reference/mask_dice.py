r"""Dice loss of masks, one mask a sample.

x (N, P) are logits with p = sigmoid(x) and q = 1 - p, or p itself if `activated`; t (N, P) is the
target. With sums over the elements of a mask

    A = sum p t,   B = sum (p - t)^2,          C = 2 eps,   c = 0       `squared`
    A = sum p t,   B = sum p (1 - t) + q t,    C = 0,       c = eps     otherwise

    l = (B + C) / D        s = 1 - l = (2 A + c) / D        D = B + 2 A + C + c

    dl/dp = 2 (s p - t) / D,   dl/dt = 2 (s t - p) / D      `squared`
    dl/dp = 2 (s/2 - t) / D,   dl/dt = 2 (s/2 - p) / D      otherwise

where B + 2 A = sum p^2 + t^2 or sum p + t, and dp/dx = p q. Nothing small is the difference of
large numbers, also where p has lost the digits of q, for

    p - t = p (1 - t) - q t
    s p - t = s p (1 - t) - t (l p + q)        s t - p = s q t - p (1 - t + l t)

D = 0, of two empty masks with eps = 0, makes NaN. Weights of the masks and reduction: `_reduce`,
n = N.

Sources: Milletari et al. arXiv 1606.04797 (V-Net); mmdet 3.3.0 `models/losses/dice_loss.py`.
"""

from torch import Tensor

from ._reduce import compute_dtype, gradients, reduce, result_dtype, spread


def _prepare(
    logits: Tensor, target: Tensor, squared: bool, eps: float, activated: bool
) -> tuple[Tensor, ...]:
    """p, q and t (N, P); the loss l (N), s and D (N, 1)."""
    x = logits.to(compute_dtype(logits))
    t = target.to(x.dtype)
    p, q = (x, 1 - x) if activated else (x.sigmoid(), (-x).sigmoid())
    twice_a = 2 * (p * t).sum(1, keepdim=True)
    only_p, only_t = p * (1 - t), q * t
    b = ((only_p - only_t).square() if squared else only_p + only_t).sum(1, keepdim=True)
    of_b, of_a = (2 * eps, 0.0) if squared else (0.0, eps)
    d = b + twice_a + (of_b + of_a)
    return p, q, t, ((b + of_b) / d)[:, 0], (twice_a + of_a) / d, d


def forward(
    logits: Tensor,  # (N, P)
    target: Tensor,  # (N, P), any dtype
    weight: Tensor | None,  # (N,)
    avg_factor: Tensor | None,  # ()
    squared: bool,
    eps: float,
    activated: bool,
    divisor: float | None,
    reduction: str,
    widen: bool,
) -> Tensor:
    """Loss of shape (N,) for "none", () otherwise."""
    loss = _prepare(logits, target, squared, eps, activated)[3]
    out = result_dtype(logits, widen)
    return reduce(loss, weight, avg_factor, divisor, reduction, len(loss), out)


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    squared: bool,
    eps: float,
    activated: bool,
    divisor: float | None,
    reduction: str,
    widen: bool,
    needs: int,
) -> list[Tensor]:
    """Gradients to logits, target and weight."""
    p, q, t, loss, s, d = _prepare(logits, target, squared, eps, activated)
    g = spread(grad, loss, avg_factor, divisor, reduction, len(loss))
    g_row = g if weight is None else g * weight.to(g.dtype)
    factor = 2 * g_row[:, None] / d
    if squared:
        l_row = loss[:, None]
        g_p = factor * (s * p * (1 - t) - t * (l_row * p + q))
        g_t = factor * (s * q * t - p * (1 - t + l_row * t))
    else:
        g_p, g_t = factor * (s / 2 - t), factor * (s / 2 - p)
    weight_dtype = logits.dtype if weight is None else weight.dtype
    return gradients(
        needs,
        logits,
        (g_p if activated else g_p * (p * q), logits.dtype),
        (g_t, target.dtype),
        (g * loss, weight_dtype),
    )
