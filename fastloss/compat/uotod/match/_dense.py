"""Matchings (B, P, T) from the row of each column."""

from __future__ import annotations

from torch import Tensor


def mark(targets: Tensor, row: Tensor, chosen: Tensor) -> None:
    """Of zeros `targets` (B, P, T), set [b, row[b, j], j] to 1 where `chosen` (B, T)."""
    if targets.shape[1]:
        targets.scatter_(1, row[:, None], chosen[:, None].to(targets.dtype))


def unmatched(row: Tensor, chosen: Tensor, rows: int) -> Tensor:
    """(B, P) bool: the rows that are none of `row` where `chosen`, (B, T) both."""
    counts = row.new_zeros(len(row), rows)
    return (counts.scatter_add_(1, row, chosen.to(row.dtype)) if rows else counts) == 0
