"""Minimum-cost assignment, the matching of DETR: of a whole batch at once."""

import torch
from torch import Tensor

from .._library import implement, register
from ..reference import linear_assignment as reference
from . import _arguments as check

_op = register(
    "linear_assignment",
    "(Tensor cost, Tensor? mask, bool strict)",
    reference.forward,
    fake=reference.shape,
)


def _on_host(cost: Tensor, mask: Tensor | None, strict: bool) -> Tensor:
    """The CPU kernel on tensors of another device: one transfer there, one back."""
    if mask is not None:  # goes along as columns of -inf, which a cost must not hold
        cost = cost.masked_fill(cost.isneginf(), torch.nan)
        cost = torch.where(mask.unsqueeze(1), cost, -torch.inf)
    host = cost.cpu()
    there = None if mask is None else ~host[:, :1].isneginf().any(1)
    return torch.ops.fastloss.linear_assignment(host, there, strict).to(cost.device)


implement("linear_assignment", "host", _on_host, "a transfer each way")


def linear_assignment(cost: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""The row of each column in the assignment of least total cost, for a batch of problems.

    Of every problem min(N, T) pairs are chosen, T the number of its columns that `mask` names; no
    row and no column twice. The sum is that of `scipy.optimize.linear_sum_assignment`; where
    several assignments have it, the same one on every device, for any number of threads. Solved in
    float64 by shortest augmenting paths after a greedy start, the problems of a batch in parallel:
    `fastloss/reference/linear_assignment.py`.

    On a GPU the costs are copied to the CPU, solved there, and the result is copied back: one
    transfer each way for the whole batch, which the host waits for. No kernel does it there.

    Args:
        cost: (B, N, M), any real dtype: of row n (prediction) and column m (target). +inf forbids a
            pair. Integers beyond 2**53 are rounded; differences beyond float64 count as +inf.
        mask: (B, M), bool: the columns that count, anywhere. What the others hold has no influence.
            None: all count.

    Returns:
        (B, M) int64: the row of each column; -1 for masked columns and, if N < T, for those left
        over. Without a gradient.

    Raises:
        TypeError, ValueError: an argument is not as described; on the CPU also a cost that holds
            NaN or -inf, or that forbids every assignment. On a GPU such a problem gets -1
            everywhere.
    """
    _check(cost, mask)
    cost = cost.detach() if cost.dtype in check.FLOATING else cost.detach().double()
    return _op(cost, mask, cost.device.type == "cpu")


def linear_sum_assignment(cost: Tensor, mask: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    """The pairs of `linear_assignment` in the form of `scipy.optimize.linear_sum_assignment`.

    The number of pairs is read by the host, which waits for a GPU once more.

    Args:
        cost: (B, N, M), as for `linear_assignment`.
        mask: (B, M), bool, or None, likewise.

    Returns:
        For each problem (rows, columns), int64 tensors of the same length, rows ascending; empty
        for a problem that a GPU has no answer for.

    Raises:
        TypeError, ValueError: as `linear_assignment`.
    """
    assigned = linear_assignment(cost, mask)
    rows, columns = assigned.masked_fill(assigned < 0, cost.shape[1]).sort(dim=1)
    counts = (assigned >= 0).sum(1).tolist()
    return [(r[:k], c[:k]) for r, c, k in zip(rows, columns, counts)]


def _check(cost: Tensor, mask: Tensor | None) -> None:
    check.tensor_on("cost", cost, "cost", cost)
    if cost.dim() != 3:
        raise ValueError(f"cost must have shape (B, N, M), got {tuple(cost.shape)}")
    if mask is not None:
        check.mask("mask", mask, (cost.shape[0], cost.shape[2]), "cost", cost)
