r"""Minimum-cost assignment of a batch of rectangular problems.

For every problem choose min(N, T) pairs (n, t) of the N rows and the T columns that mask names, no
row and no column twice, so that the sum of their costs is least.

Shortest augmenting paths on reduced costs c[i, j] - u[i] - v[j] >= 0, which are 0 on the pairs that
are matched, so that these are optimal. The side with fewer members is i. Each i starts with its
cheapest j, if no i before it has that j (u[i] = min_j c[i, j], v = 0: valid, as a j without partner
must keep v = 0); for each i that is left a search in the manner of Dijkstra finds the cheapest
path to a free j, along which the pairs are exchanged. At equal distances a free j comes first, then
the lowest.

+inf forbids a pair. A problem with NaN, with -inf, or without an assignment of finite cost has no
answer: -1 everywhere, or ValueError if `strict`.

A loop on the host, in float64: the one reference that reads values.

Sources: Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions on
Aerospace and Electronic Systems 52(4), 2016 (scipy.optimize.linear_sum_assignment); Jonker and
Volgenant, Computing 38, 1987.
"""

import torch
from torch import Tensor


def shape(cost: Tensor, mask: Tensor | None, strict: bool) -> Tensor:
    """An empty result, for tracing."""
    return cost.new_empty((cost.shape[0], cost.shape[2]), dtype=torch.int64)


def forward(
    cost: Tensor,  # (B, N, M)
    mask: Tensor | None,  # (B, M) bool, the columns that count; None: all
    strict: bool,
) -> Tensor:
    """The row of each column, (B, M) int64; -1 for columns without one."""
    result = shape(cost, mask, strict).fill_(-1)
    for b, matrix in enumerate(cost.double().cpu()):  # (N, M)
        columns = torch.arange(cost.shape[2]) if mask is None else mask[b].cpu().nonzero()[:, 0]
        matrix = matrix[:, columns]  # (N, T)
        try:
            rows = _rows_of_columns(matrix)
        except ValueError as problem:
            if strict:
                raise ValueError(f"cost of problem {b} {problem}") from None
        else:
            result[b, columns.to(result.device)] = rows.to(result.device)
    return result


def _rows_of_columns(matrix: Tensor) -> Tensor:
    """The row of each column of one problem (N, T)."""
    if bool((matrix.isnan() | matrix.isneginf()).any()):
        raise ValueError("must not hold NaN or -inf")
    if matrix.shape[1] <= matrix.shape[0]:
        return torch.tensor(_assign(matrix.mT), dtype=torch.int64)
    rows = torch.full(matrix.shape[1:], -1)
    rows[_assign(matrix)] = torch.arange(len(matrix))
    return rows


def _assign(c: Tensor) -> list[int]:
    """The column j of each row i of a matrix with at least as many columns as rows."""
    if c.shape[0] == 0:
        return []
    u, v = c.amin(1), c.new_zeros(c.shape[1])
    j_of, i_of = [-1] * c.shape[0], [-1] * c.shape[1]
    for i, j in enumerate(c.argmin(1).tolist()):
        if i_of[j] < 0:
            j_of[i], i_of[j] = j, i
    for start in [i for i, j in enumerate(j_of) if j < 0]:
        _augment(c, start, u, v, j_of, i_of)
    if not bool(u.isfinite().all()):
        raise ValueError("is infeasible: +inf forbids every assignment")
    return j_of


def _augment(c: Tensor, start: int, u: Tensor, v: Tensor, j_of: list[int], i_of: list[int]) -> None:
    """Match one more i, exchanging pairs along the cheapest path from it to a free j."""
    distance = torch.full_like(v, torch.inf)
    before = torch.full_like(v, -1, dtype=torch.int64)  # the i from which j is reached
    is_done = torch.zeros_like(v, dtype=torch.bool)
    taken = torch.tensor([i >= 0 for i in i_of])
    done: list[tuple[int, float]] = []  # the matched j on the way, with their distances
    i, length = start, 0.0
    while i >= 0:
        through = length + ((c[i] - u[i]) - v)
        closer = (through < distance) & ~is_done
        distance[closer], before[closer] = through[closer], i
        open_ = distance.masked_fill(is_done, torch.inf)
        length = float(open_.amin())
        if length == torch.inf:
            u[start] = torch.inf  # nothing is left that could be reached
            return
        nearest = open_ == length
        j = int((nearest & ~taken if bool((nearest & ~taken).any()) else nearest).int().argmax())
        is_done[j] = True
        i = i_of[j]
        done += [(j, length)] if i >= 0 else []
    u[start] += length
    for k, at in done:
        u[i_of[k]] += length - at
        v[k] -= length - at
    while j >= 0:  # backwards from the free j
        i = int(before[j])
        i_of[j], j_of[i], j = i, j, j_of[i]
