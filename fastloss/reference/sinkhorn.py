r"""Entropic optimal transport between the rows and the columns of a batch of cost matrices.

The plan P_ij = u_i K_ij v_j, K = exp(-cost / reg), after `num_iter` rounds from u = 1 of

    v = (b / K^T u)^(tau_b / (tau_b + reg)),    u = (a / K v)^(tau_a / (tau_a + reg)),

and one more update of v. An exponent is 1 where its tau is None: the masses of that side are kept
(balanced). Otherwise leaving them costs tau times the Kullback-Leibler divergence from them
(unbalanced). In logarithms and in float64, whatever the dtype, so that no regularisation is too
small while cost / reg keeps digits after the point.

With `tol` an image stops after the round whose v differs from the one before by at most tol in
every logarithm. Rows and columns of mass 0, and those that +inf separates from all others, have
plan 0 and potential -inf; what the cost of a massless one is never matters. An image with a mass
that is negative or not finite, or with a cost of NaN or -inf, becomes NaN.

Sources: Cuturi, NeurIPS 2013, arXiv 1306.0895; Chizat et al., Mathematics of Computation 87, 2018,
arXiv 1607.05816; uotod 0.3 `match/BalancedSinkhorn.py` and `match/UnbalancedSinkhorn.py`.
"""

import torch
from torch import Tensor


def exponent(reg: float, tau: float | None) -> float:
    """The power in the update of a side."""
    return 1.0 if tau is None else tau / (tau + reg)


def forward(
    cost: Tensor,  # (B, N, M)
    a: Tensor,  # (B, N), masses of the rows
    b: Tensor,  # (B, M), masses of the columns
    reg: float,
    num_iter: int,
    tau_a: float | None,
    tau_b: float | None,
    tol: float | None,
) -> list[Tensor]:
    """Plan (B, N, M) and potentials reg log u (B, N) and reg log v (B, M)."""
    a, b = a.double(), b.double()
    used = (a > 0)[:, :, None] & (b > 0)[:, None, :]
    log_k = torch.where(used, -cost.double() / reg, -torch.inf)
    log_a, log_b = a.clamp(min=0).log(), b.clamp(min=0).log()
    power_a, power_b = exponent(reg, tau_a), exponent(reg, tau_b)

    log_u = torch.zeros_like(a)
    log_v = _update(log_b, log_k, 1, power_b)
    moves = torch.ones_like(a[:, :0].sum(1, keepdim=True), dtype=torch.bool)  # (B, 1)
    for _ in range(num_iter):
        new_u = _update(log_a, log_k + log_v[:, None, :], 2, power_a)
        new_v = _update(log_b, log_k + new_u[:, :, None], 1, power_b)
        log_u, old_v = torch.where(moves, new_u, log_u), log_v
        log_v = torch.where(moves, new_v, log_v)
        if tol is not None:
            moved = (log_v != old_v) & ~((log_v - old_v).abs() <= tol)
            moves = moves & moved.any(1, keepdim=True)
    plan = (log_k + log_u[:, :, None] + log_v[:, None, :]).exp()

    bad = (used & ~(cost > -torch.inf)).flatten(1).any(1)[:, None]  # (B, 1)
    for mass in (a, b):
        bad = bad | ~((mass >= 0) & (mass < torch.inf)).all(1, keepdim=True)
    results = (plan, reg * log_u, reg * log_v)
    return [
        x.masked_fill(bad.reshape(-1, *(1,) * (x.dim() - 1)), torch.nan).to(cost.dtype)
        for x in results
    ]


def _update(log_mass: Tensor, log_terms: Tensor, dim: int, power: float) -> Tensor:
    """(mass / sum)^power in logarithms; -inf without mass, or with nothing in the sum."""
    log_sum = torch.logsumexp(log_terms, dim)
    dead = (log_mass == -torch.inf) | (log_sum == -torch.inf)
    return torch.where(dead, -torch.inf, power * (log_mass - log_sum))
