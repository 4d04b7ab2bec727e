"""What the kernels on rows of logits (N, C) share: blocks of rows, softmax of a row in one pass."""

import triton
import triton.language as tl
from torch import Tensor

from . import _common as common

ELEMENTS = 1024  # of a block: 8 for each of 128 lanes, as registers hold them
NARROWEST, WIDEST = 32, 1024  # columns that a program holds at a time
INFINITY = tl.constexpr(float("inf"))
# Strides decide whether loads are vectors; the rest does not matter.
kernel = triton.jit(
    do_not_specialize=[
        "n", "columns", "divisor", "temperature",
        *(f"{x}_{part}" for x in "gw" for part in ("columns", "row", "column")),
    ]
)  # fmt: skip


def block(logits: Tensor) -> dict[str, int]:
    """ROWS rows for each program, of which it holds BLOCK columns at a time."""
    columns = min(max(triton.next_power_of_2(logits.shape[1]), NARROWEST), WIDEST)
    elements = ELEMENTS // 2 if logits.element_size() == 8 else ELEMENTS
    return {"ROWS": max(elements // columns, 1), "BLOCK": columns}


def reduction(logits: Tensor, weight, avg_factor, divisor, kind: str) -> common.Reduction:
    n = len(logits)
    rows = block(logits)["ROWS"]
    return common.reduction_of(logits, weight, avg_factor, divisor, kind, n, n, block=rows)


@triton.jit
def row_indices(ROWS: tl.constexpr):
    """The rows of this program."""
    return tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)


@triton.jit
def column_indices(start, columns, BLOCK: tl.constexpr):
    """BLOCK columns from `start` on, and which of them there are."""
    c = start + tl.arange(0, BLOCK).to(tl.int64)
    return c, c < columns


@triton.jit
def load_rows(x, x_n, x_c, i, n, c, inside, DTYPE: tl.constexpr):
    """Elements (i, c); -inf outside, which changes no softmax."""
    mask = (i < n)[:, None] & inside[None, :]
    return tl.load(x + i[:, None] * x_n + c[None, :] * x_c, mask=mask, other=-INFINITY).to(DTYPE)


@triton.jit
def softmax_of_rows(
    x, x_n, x_c, i, n, columns, factor, DTYPE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The largest logit of each row, and the sum of e^((x - largest) factor)."""
    peak, total = tl.full((ROWS,), -INFINITY, DTYPE), tl.zeros((ROWS,), DTYPE)
    for start in range(0, columns, BLOCK):
        c, inside = column_indices(start, columns, BLOCK)
        z = load_rows(x, x_n, x_c, i, n, c, inside, DTYPE)
        larger = tl.maximum(peak, tl.max(z, 1))
        # Where all are -inf so far, these are 0, not e^(-inf + inf).
        base = tl.where(larger == -INFINITY, 0.0, larger)
        total *= tl.exp((peak - base) * factor)
        total += tl.sum(tl.exp((z - base[:, None]) * factor), 1)
        peak = larger
    return peak, total
