"""Triton kernels of the stem `sinkhorn`, in logarithms; definition: fastloss/reference/sinkhorn.py.

A program has rows of an image. A round gives them log u from log v, and leaves, for each column,
the logarithm of what they add to its sum, as a largest term and a sum relative to it; log v follows
from those of all programs, in order. Images of up to WHOLE costs have one program, which does all
rounds in one launch; larger ones a launch for each round. Exponents are taken in float64, where
large terms cancel, exponentials in the dtype of the cost. Sums with a maximum subtracted neither
overflow nor vanish.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference.sinkhorn import exponent
from . import _common as common
from ._common import bits, kernel

WHOLE = 1 << 16  # costs of an image
ROWS = 128  # of a program where an image has several
TILE = 256  # costs that a warp holds at a time: 8 a lane, with their terms in float64
WARPS = 8  # of a program
INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _number(x):
    return x.to(tl.float64, bitcast=True)


@triton.jit
def _any(x):
    return tl.max(x.to(tl.int32), 0) == 1


@triton.jit
def _exp(x, DTYPE: tl.constexpr):
    """exp(x) of doubles, 0 for -inf minus itself."""
    return tl.exp(tl.where(x == x, x, -INFINITY).to(DTYPE)).to(tl.float64)


@triton.jit
def _update(mass, largest, total, power):
    """log (mass / sum)^power for sum = e^largest total; -inf without mass or sum, NaN if it is."""
    log_sum = largest + tl.log(total)
    log_mass = tl.log(tl.where(mass > 0.0, mass, 1.0))
    dead = (mass == 0.0) | (total == 0.0)
    value = tl.where(dead, -INFINITY, power * (log_mass - log_sum))
    return tl.where((mass >= 0.0) & (mass < INFINITY) & (total == total), value, float("nan"))


@triton.jit
def _columns(b, largest, total, power, image, columns, j):
    """log v of the columns j from what the rows add to their sums; NaN for all if one is."""
    mass = tl.load(b + image * columns + j, mask=j < columns, other=0.0).to(tl.float64)
    log_v = _update(mass, largest, total, power)
    return tl.where(_any(log_v != log_v), float("nan"), log_v)


@triton.jit
def _rows(
    cost, a, b, f, log_v, image, first, last, rows, columns, inverse, power, is_start,
    DTYPE: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """log u of rows `first` to `last`, written to f; at the start it is 0. Returns what they add to
    the sums of the columns, NaN if a mass, a cost or log v is bad."""
    j = tl.arange(0, WIDE)
    live = tl.load(b + image * columns + j, mask=j < columns, other=0.0).to(tl.float64) > 0.0
    largest = tl.full((WIDE,), -INFINITY, tl.float64)
    total = tl.zeros((WIDE,), tl.float64)
    is_bad = _any(log_v != log_v)
    for start in range(first, last, TALL):
        i = start + tl.arange(0, TALL)
        mass = tl.load(a + image * rows + i, mask=i < last, other=0.0).to(tl.float64)
        used = live[None, :] & (mass > 0.0)[:, None]
        at = (image * rows + i)[:, None] * columns + j[None, :]
        c = tl.load(cost + at, mask=used, other=INFINITY).to(tl.float64)
        log_k = tl.where(used, -c * inverse, -INFINITY)
        terms = log_k + log_v[None, :]
        most = tl.max(terms, 1)
        log_u = _update(mass, most, tl.sum(_exp(terms - most[:, None], DTYPE), 1), power)
        is_bad |= _any(log_u != log_u) | _any(tl.reshape(used & ~(c > -INFINITY), (TALL * WIDE,)))
        log_u = tl.where(is_start & (mass > 0.0), 0.0, log_u)
        tl.store(f + image * rows + i, log_u, mask=i < last)
        terms = log_k + log_u[:, None]
        most = tl.maximum(largest, tl.max(terms, 0))
        total *= _exp(largest - most, DTYPE)
        total += tl.sum(_exp(terms - most[None, :], DTYPE), 0)
        largest = most
    return largest, tl.where(is_bad, float("nan"), total)


@triton.jit
def _plan(
    cost, f, log_v, plan, u, v, image, first, last, rows, columns, inverse, reg,
    DTYPE: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write the plan and the potentials of rows `first` to `last`."""
    j = tl.arange(0, WIDE)
    is_bad = _any(log_v != log_v)
    for start in range(first, last, TALL):
        i = start + tl.arange(0, TALL)
        log_u = tl.load(f + image * rows + i, mask=i < last, other=-INFINITY)
        at = (image * rows + i)[:, None] * columns + j[None, :]
        inside = (i < last)[:, None] & (j < columns)[None, :]
        used = inside & (log_u != -INFINITY)[:, None] & (log_v != -INFINITY)[None, :]
        c = tl.load(cost + at, mask=used, other=INFINITY).to(tl.float64)
        x = tl.where(used, (log_u[:, None] + log_v[None, :]) - c * inverse, -INFINITY)
        value = tl.where(is_bad, float("nan"), tl.exp(x.to(DTYPE)))
        tl.store(plan + at, value.to(plan.dtype.element_ty), mask=inside)
        value = tl.where(is_bad, float("nan"), reg * log_u).to(DTYPE).to(u.dtype.element_ty)
        tl.store(u + image * rows + i, value, mask=i < last)
    tl.store(
        v + image * columns + j, (reg * log_v).to(DTYPE).to(v.dtype.element_ty), mask=j < columns
    )


@triton.jit
def _has_moved(log_v, old, tol):
    """Whether a column has moved by more than tol."""
    return _any((log_v != old) & ~(tl.abs(log_v - old) <= tol))


@kernel
def sinkhorn_whole(
    cost, a, b, plan, u, v, f, rows, columns, rounds, inverse: tl.int64, reg: tl.int64,
    power_a: tl.int64, power_b: tl.int64, tol: tl.int64,
    HAS_TOL: tl.constexpr, DTYPE: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """All rounds of an image, and its plan."""
    image = tl.program_id(0).to(tl.int64)
    inverse, power_a, power_b = _number(inverse), _number(power_a), _number(power_b)
    j = tl.arange(0, WIDE)
    log_v = tl.zeros((WIDE,), tl.float64)
    is_moving = True
    for round in range(rounds + 1):
        if is_moving:
            largest, total = _rows(
                cost, a, b, f, log_v, image, 0, rows, rows, columns, inverse, power_a, round == 0,
                DTYPE, TALL, WIDE,
            )  # fmt: skip
            old = log_v
            log_v = _columns(b, largest, total, power_b, image, columns, j)
            if HAS_TOL:
                is_moving = (round == 0) | _has_moved(log_v, old, _number(tol))
    tl.debug_barrier()  # f was written by other threads than read it
    _plan(
        cost, f, log_v, plan, u, v, image, 0, rows, rows, columns, inverse, _number(reg),
        DTYPE, TALL, WIDE,
    )  # fmt: skip


@triton.jit
def _merged(largest, total, image, chunks, columns, j):
    """The sums of the columns from those of the chunks of rows."""
    most = tl.full(j.shape, -INFINITY, tl.float64)
    sums = tl.zeros(j.shape, tl.float64)
    for chunk in range(chunks):
        at = (image * chunks + chunk) * columns + j
        m = tl.load(largest + at, mask=j < columns, other=-INFINITY)
        s = tl.load(total + at, mask=j < columns, other=0.0)
        both = tl.maximum(most, m)
        sums = sums * _exp(most - both, tl.float64) + s * _exp(m - both, tl.float64)
        most = both
    return most, sums


@kernel
def sinkhorn_round(
    cost, a, b, f, old_v, new_v, largest, total, new_largest, new_total, rows, columns, chunks,
    inverse: tl.int64, power_a: tl.int64, power_b: tl.int64, tol: tl.int64,
    START: tl.constexpr, HAS_TOL: tl.constexpr, DTYPE: tl.constexpr, ROWS: tl.constexpr,
    TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One round of a chunk of rows; from an image that is still, what it had is handed on."""
    image = tl.program_id(0).to(tl.int64) // chunks
    chunk = tl.program_id(0).to(tl.int64) % chunks
    j = tl.arange(0, WIDE)
    log_v = tl.zeros((WIDE,), tl.float64)
    is_moving = True
    if not START:
        most, sums = _merged(largest, total, image, chunks, columns, j)
        log_v = _columns(b, most, sums, _number(power_b), image, columns, j)
    if HAS_TOL:
        at = image * columns + j
        old = tl.load(old_v + at, mask=j < columns, other=0.0)
        is_moving = START | _has_moved(tl.where(j < columns, log_v, 0.0), old, _number(tol))
        if chunk == 0:
            tl.store(new_v + at, tl.where(START, INFINITY, log_v), mask=j < columns)
    at = (image * chunks + chunk) * columns + j
    if is_moving:
        first, last = chunk * ROWS, tl.minimum((chunk + 1) * ROWS, rows)
        m, s = _rows(
            cost, a, b, f, log_v, image, first, last, rows, columns, _number(inverse),
            _number(power_a), START, DTYPE, TALL, WIDE,
        )  # fmt: skip
    else:
        m = tl.load(largest + at, mask=j < columns, other=0.0)
        s = tl.load(total + at, mask=j < columns, other=0.0)
    tl.store(new_largest + at, m, mask=j < columns)
    tl.store(new_total + at, s, mask=j < columns)


@kernel
def sinkhorn_plan(
    cost, b, f, plan, u, v, largest, total, rows, columns, chunks,
    inverse: tl.int64, reg: tl.int64, power_b: tl.int64,
    DTYPE: tl.constexpr, ROWS: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The plan of a chunk of rows; all chunks of an image write the same v."""
    image = tl.program_id(0).to(tl.int64) // chunks
    chunk = tl.program_id(0).to(tl.int64) % chunks
    j = tl.arange(0, WIDE)
    most, sums = _merged(largest, total, image, chunks, columns, j)
    log_v = _columns(b, most, sums, _number(power_b), image, columns, j)
    first, last = chunk * ROWS, tl.minimum((chunk + 1) * ROWS, rows)
    _plan(
        cost, f, log_v, plan, u, v, image, first, last, rows, columns, _number(inverse),
        _number(reg), DTYPE, TALL, WIDE,
    )  # fmt: skip


def forward(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    reg: float,
    num_iter: int,
    tau_a: float | None,
    tau_b: float | None,
    tol: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    images, rows, columns = cost.shape
    cost, a, b = cost.contiguous(), a.contiguous(), b.contiguous()
    plan, u, v = torch.empty_like(cost), cost.new_empty(images, rows), cost.new_empty(b.shape)
    f = cost.new_empty(images, rows, dtype=torch.float64)
    wide = max(triton.next_power_of_2(columns), 16)
    options = {"DTYPE": common.language_dtype(cost), "WIDE": wide}

    def tall(warps: int) -> int:
        return min(max(TILE * warps // wide, 1), ROWS)

    inverse, power_a = bits(1 / reg), bits(exponent(reg, tau_a))
    power_b, limit = bits(exponent(reg, tau_b)), bits(0.0 if tol is None else tol)
    with torch.cuda.device_of(cost):
        if rows * columns <= WHOLE:
            common.launch(
                sinkhorn_whole, images, cost, a, b, plan, u, v, f, rows, columns, num_iter,
                inverse, bits(reg), power_a, power_b, limit, HAS_TOL=tol is not None,
                TALL=tall(WARPS), num_warps=WARPS, **options,
            )  # fmt: skip
            return plan, u, v
        chunks = triton.cdiv(rows, ROWS)
        # Half as many costs a warp: the registers hold what chunks are merged from too.
        options |= {"ROWS": ROWS, "TALL": tall(WARPS // 2), "num_warps": WARPS}
        sums = f.new_empty(2, 2, images, chunks, columns)  # before and after a round
        log_v = f.new_empty(2, *b.shape)
        for round in range(num_iter + 1):
            now, then = round % 2, 1 - round % 2
            common.launch(
                sinkhorn_round, images * chunks, cost, a, b, f, log_v[then], log_v[now],
                *sums[then], *sums[now], rows, columns, chunks, inverse, power_a, power_b, limit,
                START=round == 0, HAS_TOL=tol is not None, **options,
            )  # fmt: skip
        common.launch(
            sinkhorn_plan, images * chunks, cost, b, f, plan, u, v, *sums[num_iter % 2], rows,
            columns, chunks, inverse, bits(reg), power_b, **options,
        )  # fmt: skip
    return plan, u, v


implement("sinkhorn", "triton", forward)
