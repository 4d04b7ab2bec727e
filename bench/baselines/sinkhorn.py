"""Sinkhorn's algorithm with exponentials, as uotod has it: De Plaen et al., CVPR 2023."""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    reg: float,
    num_iter: int,
    tau_a: float | None = None,
    tau_b: float | None = None,
) -> Tensor:
    """cost: (B, N, M); masses a: (B, N), b: (B, M). The plan (B, N, M)."""
    k, u = torch.exp(-cost / reg), torch.ones_like(a)

    def columns(u: Tensor) -> Tensor:
        v = b / (k * u.unsqueeze(2)).sum(1)
        return v if tau_b is None else v.pow(tau_b / (tau_b + reg))

    for _ in range(num_iter):
        u = a / (k * columns(u).unsqueeze(1)).sum(2)
        u = u if tau_a is None else u.pow(tau_a / (tau_a + reg))
    return torch.einsum("bn,bnm,bm->bnm", u, k, columns(u))
