"""Triton kernels of the stem `gradient_harmonized`; definition: the reference of that name.

A program of the forward keeps a table in its registers, a lane for some elements and all bins, and
one sum over the programs makes the result: no atomics, so the same bits on every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import load_operand, log1p_unit, store_block

# Counts and sums in the registers of a program, and how many elements it goes through for each
# that it holds at a time.
ENTRIES = 4096
STEPS = 32
CLASSIFICATION = tl.constexpr(0)
KINDS = ("classification", "regression")
kernel = triton.jit(
    do_not_specialize=[
        "n", "bins", "mu", "tiles",
        *(f"{name}_{part}" for name in "xtw" for part in ("columns", "row", "column")),
    ]
)  # fmt: skip


@triton.jit
def _divide(a, b):
    """a / b, rounded as on the CPU: a length decides about the bin."""
    if a.dtype == tl.float64:
        value = a / b
    else:
        value = tl.div_rn(a, b)
    return value


@triton.jit
def _formula(x, t, mu, KIND: tl.constexpr):
    """Length, loss, and its derivatives to x and t."""
    if KIND == CLASSIFICATION:
        e = tl.exp(-tl.abs(x))
        r = _divide(1.0 + e * 0.0, 1.0 + e)
        p = tl.where(x < 0.0, e * r, r)
        q = tl.where(x < 0.0, r, e * r)
        tail = log1p_unit(e)
        length = tl.abs(p - t)
        loss = t * (tl.where(x < 0.0, -x, 0.0) + tail)
        loss += (1.0 - t) * (tl.where(x > 0.0, x, 0.0) + tail)
        dx, dt = p * (1.0 - t) - q * t, -x
    else:
        # From the bits of a double.
        mu = mu.to(tl.int64).to(tl.float64, bitcast=True).to(x.dtype)
        d = x - t
        square = d * d + mu * mu
        if x.dtype == tl.float64:
            root = tl.sqrt(square)
        else:
            root = tl.sqrt_rn(square)
        overflows = root == float("inf")
        dx = tl.where(overflows, tl.where(d < 0.0, -1.0, 1.0), _divide(d, root))
        length = tl.abs(dx)
        loss = tl.where(overflows, tl.abs(d) - mu, d * (d / (root + mu)))
        dt = -dx
    return length, loss, dx, dt


@triton.jit
def _bin_of(length, edges, bins):
    """The column of every element."""
    k = tl.zeros(length.shape, tl.int32) - 1
    for b in range(bins + 1):
        k += (length >= tl.load(edges + b).to(length.dtype)).to(tl.int32)
    return tl.where(k < 0, bins, k)


@triton.jit
def _elements(
    pred, x_columns, x_row, x_column, target, t_columns, t_row, t_column,
    weight, w_columns, w_row, w_column, i, n,
    CLASSES: tl.constexpr, INDEX: tl.constexpr, X_MODE: tl.constexpr, T_MODE: tl.constexpr,
    W_MODE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """x, t, and whether the elements i are valid."""
    x = load_operand(pred, x_columns, x_row, x_column, i, n, X_MODE).to(DTYPE)
    if INDEX:
        label = tl.load(target + i // CLASSES, mask=i < n, other=-1)
        t = (label == i % CLASSES).to(DTYPE)
    else:
        t = load_operand(target, t_columns, t_row, t_column, i, n, T_MODE).to(DTYPE)
    valid = i < n
    if W_MODE != 0:
        valid &= load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE) > 0.0
    return x, t, valid


@kernel
def gradient_harmonized_fwd(
    pred, x_columns, x_row, x_column,  # (n)
    target, t_columns, t_row, t_column,  # (n), or (n / CLASSES) class indices
    weight, w_columns, w_row, w_column,  # (n)
    edges,  # (bins + 1)
    counts,  # (chunks, bins + 1) int32
    sums,  # (chunks, bins + 1)
    n, bins, mu: tl.int64, tiles,
    KIND: tl.constexpr, CLASSES: tl.constexpr, INDEX: tl.constexpr, X_MODE: tl.constexpr,
    T_MODE: tl.constexpr, W_MODE: tl.constexpr, DTYPE: tl.constexpr, LANES: tl.constexpr,
    TILE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    chunk = (tl.program_id(0) // tiles).to(tl.int64)
    b = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    count = tl.zeros((LANES, TILE), tl.int32)
    total = tl.zeros((LANES, TILE), DTYPE)
    for step in range(STEPS):
        i = (chunk * STEPS + step) * LANES + tl.arange(0, LANES)
        x, t, valid = _elements(
            pred, x_columns, x_row, x_column, target, t_columns, t_row, t_column,
            weight, w_columns, w_row, w_column, i, n, CLASSES, INDEX, X_MODE, T_MODE, W_MODE,
            DTYPE,
        )  # fmt: skip
        length, loss, _, _ = _formula(x, t, mu, KIND)
        k = tl.where(valid, _bin_of(length, edges, bins), -1)
        here = k[:, None] == b[None, :]
        count += here.to(tl.int32)
        total += tl.where(here, loss[:, None], 0.0)
    at = chunk * (bins + 1) + b
    tl.store(counts + at, tl.sum(count, 0), mask=b <= bins)
    tl.store(sums + at, tl.sum(total, 0), mask=b <= bins)


@kernel
def gradient_harmonized_bwd(
    grad,  # (bins + 1), of the sums
    pred, x_columns, x_row, x_column,  # (n)
    target, t_columns, t_row, t_column,  # (n), or (n / CLASSES) class indices
    weight, w_columns, w_row, w_column,  # (n)
    edges,  # (bins + 1)
    g_pred, g_target,  # (n) each, if wanted
    n, bins, mu: tl.int64,
    KIND: tl.constexpr, CLASSES: tl.constexpr, INDEX: tl.constexpr, NEEDS: tl.constexpr,
    X_MODE: tl.constexpr, T_MODE: tl.constexpr, W_MODE: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x, t, valid = _elements(
        pred, x_columns, x_row, x_column, target, t_columns, t_row, t_column,
        weight, w_columns, w_row, w_column, i, n, CLASSES, INDEX, X_MODE, T_MODE, W_MODE, DTYPE,
    )  # fmt: skip
    length, _, dx, dt = _formula(x, t, mu, KIND)
    factor = tl.load(grad + _bin_of(length, edges, bins)).to(DTYPE)
    if NEEDS & 1:
        store_block(g_pred, tl.where(valid, factor * dx, 0.0), i, n)
    if NEEDS & 2:
        store_block(g_target, tl.where(valid, factor * dt, 0.0), i, n)


def _call(
    pred: Tensor, target: Tensor, weight: Tensor | None, edges: Tensor, kind: str, mu: float
) -> tuple[tuple[Any, ...], tuple[int, ...], dict[str, Any]]:
    """The tensors, the numbers and the constants that both kernels take."""
    index = target.dim() < pred.dim()
    x, w = common.operand(pred, pred), common.operand(weight, pred)
    t = common.operand(target.contiguous() if index else target, pred)
    tensors = (*x.arguments(), *t.arguments(), *w.arguments(), edges.contiguous())
    constants = {
        "KIND": KINDS.index(kind), "CLASSES": max(pred.shape[-1], 1) if index else 1,
        "INDEX": index, "X_MODE": x.mode, "T_MODE": t.mode, "W_MODE": w.mode,
        "DTYPE": common.language_dtype(pred),
    }  # fmt: skip
    return tensors, (pred.numel(), len(edges) - 1, common.bits(mu)), constants


def forward(
    pred: Tensor, target: Tensor, weight: Tensor | None, edges: Tensor, kind: str, mu: float
) -> Tensor:
    tensors, numbers, constants = _call(pred, target, weight, edges, kind, mu)
    columns = len(edges)
    tile = min(triton.next_power_of_2(columns), 32)
    lanes = ENTRIES // 32 if pred.dtype != torch.float64 else ENTRIES // 64
    chunks, tiles = triton.cdiv(pred.numel(), lanes * STEPS), triton.cdiv(columns, tile)
    counts = pred.new_empty(chunks, columns, dtype=torch.int32)
    sums = pred.new_empty(chunks, columns, dtype=common.compute_dtype(pred))
    with torch.cuda.device_of(pred):
        common.launch(
            gradient_harmonized_fwd, chunks * tiles, *tensors, counts, sums, *numbers, tiles,
            LANES=lanes, TILE=tile, STEPS=STEPS, **constants,
        )  # fmt: skip
        return torch.stack([x.sum(0, dtype=torch.float64) for x in (counts, sums)])


def backward(
    grad: Tensor, pred: Tensor, target: Tensor, weight: Tensor | None, edges: Tensor, kind: str,
    mu: float, needs: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    needs &= 3 if target.is_floating_point() else 1
    tensors, numbers, constants = _call(pred, target, weight, edges, kind, mu)
    gradients = common.gradients_like(needs, pred, target)
    with torch.cuda.device_of(pred):
        common.launch(
            gradient_harmonized_bwd, triton.cdiv(pred.numel(), common.BLOCK), grad[1].contiguous(),
            *tensors, *gradients, *numbers, NEEDS=needs, BLOCK=common.BLOCK, **constants,
        )  # fmt: skip
    return gradients


implement("gradient_harmonized", "triton", forward, helper="torch.sum")
implement("gradient_harmonized_backward", "triton", backward)
