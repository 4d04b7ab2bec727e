r"""Counts and sums of losses by the length of the gradient: the table of harmonizing (GHM).

x (*) are predictions and t (*) their targets, or class indices of all dims but the last: t is 1 at
the index and 0 elsewhere then; an index that is no class makes a row of zeros. Every element has a
gradient length g and a loss l:

    classification   g = |sigmoid(x) - t|          l = -t ln sigmoid(x) - (1 - t) ln sigmoid(-x)
    regression       g = |d| / sqrt(d^2 + mu^2)    l = sqrt(d^2 + mu^2) - mu,  d = x - t

and g = 1, l = |d| - mu where d^2 is beyond the dtype. g is computed and compared in the dtype of
the computation: bin b has e_b <= g < e_(b + 1), for ascending edges e (B + 1). The table (2, B + 1)
has in column b how many elements the bin has and the sum of their losses; the last column is of
those in no bin, such as a NaN. Elements whose weight is not above 0 are nowhere. The sums have
gradients, dl/dx and dl/dt; the counts and the choice of the bin have none.

Sources: Li et al. arXiv 1811.05181; mmdet 3.3.0 `models/losses/ghm_loss.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import compute_dtype, gradients


def dense_target(pred: Tensor, target: Tensor) -> Tensor:
    """t (*) in the dtype of the computation."""
    if target.dim() < pred.dim():
        target = target[..., None] == torch.arange(pred.shape[-1], device=pred.device)
    return target.to(compute_dtype(pred))


def length(x: Tensor, t: Tensor, kind: str, mu: float) -> tuple[Tensor, Tensor]:
    """g and dl/dx."""
    if kind == "classification":
        slope = x.sigmoid() - t
    else:
        d = x - t
        root = (d * d + mu * mu).sqrt()
        slope = torch.where(root.isinf(), d.sign(), d / root)
    return slope.detach().abs(), slope


def bin_of(g: Tensor, edges: Tensor) -> Tensor:
    """The column of every element."""
    bins = len(edges) - 1
    k = torch.bucketize(g.contiguous(), edges.to(g.dtype).contiguous(), right=True) - 1
    return torch.where(k < 0, bins, k)  # a NaN is at the end already


def element_loss(x: Tensor, t: Tensor, kind: str, mu: float) -> Tensor:
    """l."""
    if kind == "classification":
        return F.binary_cross_entropy_with_logits(x, t, reduction="none")
    d = x - t
    root = (d * d + mu * mu).sqrt()
    # The difference of the definition would lose the digits of a small d.
    return torch.where(root.isinf(), d.abs() - mu, d * (d / (root + mu)))


def prepare(pred: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
    """x, t, and which elements are valid; x and t are 0 where they are not."""
    x, t = pred.to(compute_dtype(pred)), dense_target(pred, target)
    if weight is None:
        return x, t, torch.ones_like(x, dtype=torch.bool)
    valid = weight.to(x.dtype) > 0
    return torch.where(valid, x, 0), torch.where(valid, t, 0), valid


def forward(
    pred: Tensor,  # (*)
    target: Tensor,  # (*), or class indices without the last dim
    weight: Tensor | None,  # (*)
    edges: Tensor,  # (B + 1)
    kind: str,
    mu: float,
) -> Tensor:
    """The table (2, B + 1), float64."""
    x, t, valid = prepare(pred, target, weight)
    k = bin_of(length(x, t, kind, mu)[0], edges)
    bins = len(edges) - 1
    k = torch.where(valid, k, bins + 1).reshape(-1)
    table = torch.zeros(2, bins + 2, dtype=torch.float64, device=x.device)
    loss = element_loss(x, t, kind, mu).reshape(-1).double()
    rows = torch.stack((torch.ones_like(loss), loss))
    return table.scatter_add(1, k.expand(2, -1), rows)[:, :-1].contiguous()


def backward(
    grad: Tensor,  # (2, B + 1)
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    edges: Tensor,
    kind: str,
    mu: float,
    needs: int,
) -> list[Tensor]:
    """Gradients to pred and to a dense target."""
    x, t, valid = prepare(pred, target, weight)
    g, slope = length(x, t, kind, mu)
    factor = grad[1].to(x.dtype)[bin_of(g, edges)]
    g_x = torch.where(valid, factor * slope, 0)
    g_t = torch.where(valid, factor * -x, 0) if kind == "classification" else -g_x
    floating = target.is_floating_point()
    return gradients(needs, pred, (g_x, pred.dtype), (g_t if floating else None, target.dtype))
