"""Triton kernels of the stem `equalization`; definition: the reference of that name.

A program of the forward adds up some rows of some columns; one sum over the programs makes the
result: no atomics, so the same bits on every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from . import _common as common
from ._common import log1p_unit

COLUMNS = 128  # of a program
ROWS = 8  # that it holds at a time
STEPS = 8
kernel = triton.jit(do_not_specialize=["rows", "columns", "tiles"])


@triton.jit
def _tile(logits, x_row, x_column, labels, i, c, rows, columns, DTYPE: tl.constexpr):
    """x (R, C), NaN in rows whose label is out of range; which entries are positives, and which
    are in the tensor."""
    label = tl.load(labels + i, mask=i < rows, other=0)
    inside = (i < rows)[:, None] & (c < columns)[None, :]
    x = tl.load(logits + i[:, None] * x_row + c[None, :] * x_column, mask=inside, other=0.0)
    known = (label >= 0) & (label < columns)
    x = tl.where(known[:, None], x.to(DTYPE), float("nan"))
    return x, label[:, None] == c[None, :], inside


@triton.jit
def _logistic(x):
    """e^-|x|, sigmoid(x) and sigmoid(-x)."""
    e = tl.exp(-tl.abs(x))
    r = 1.0 / (1.0 + e)
    return e, tl.where(x < 0.0, e * r, r), tl.where(x < 0.0, r, e * r)


@kernel
def equalization_fwd(
    logits, x_row, x_column,  # (rows, columns)
    labels,  # (rows)
    out,  # (chunks, 4, columns)
    rows, columns, tiles,
    DTYPE: tl.constexpr, R: tl.constexpr, C: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    chunk = (tl.program_id(0) // tiles).to(tl.int64)
    c = (tl.program_id(0) % tiles * C + tl.arange(0, C)).to(tl.int64)
    zero = tl.zeros((R, C), DTYPE)
    positive, negative, missing, found = zero, zero, zero, zero
    for step in range(STEPS):
        i = (chunk * STEPS + step) * R + tl.arange(0, R)
        x, hot, inside = _tile(logits, x_row, x_column, labels, i, c, rows, columns, DTYPE)
        e, p, q = _logistic(x)
        tail = log1p_unit(e)
        own, other = inside & hot, inside & (hot == 0)
        positive += tl.where(own, tl.where(x < 0.0, -x, 0.0) + tail, 0.0)
        negative += tl.where(other, tl.where(x > 0.0, x, 0.0) + tail, 0.0)
        missing += tl.where(own, q, 0.0)
        found += tl.where(other, p, 0.0)
    out += chunk * 4 * columns + c
    tl.store(out, tl.sum(positive, 0), mask=c < columns)
    tl.store(out + columns, tl.sum(negative, 0), mask=c < columns)
    tl.store(out + 2 * columns, tl.sum(missing, 0), mask=c < columns)
    tl.store(out + 3 * columns, tl.sum(found, 0), mask=c < columns)


@kernel
def equalization_bwd(
    grad,  # (2, columns)
    logits, x_row, x_column,  # (rows, columns)
    labels,  # (rows)
    g_logits,  # (rows, columns)
    rows, columns, tiles,
    DTYPE: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    i = (tl.program_id(0) // tiles).to(tl.int64) * R + tl.arange(0, R)
    c = (tl.program_id(0) % tiles * C + tl.arange(0, C)).to(tl.int64)
    x, hot, inside = _tile(logits, x_row, x_column, labels, i, c, rows, columns, DTYPE)
    positive = tl.load(grad + c, mask=c < columns, other=0.0).to(DTYPE)[None, :]
    negative = tl.load(grad + columns + c, mask=c < columns, other=0.0).to(DTYPE)[None, :]
    e, p, q = _logistic(x)
    g = tl.where(hot, -positive * q, negative * p)
    at = g_logits + i[:, None] * columns + c[None, :]
    tl.store(at, g.to(g_logits.dtype.element_ty), mask=inside)


def _call(logits: Tensor, labels: Tensor) -> tuple[tuple[Any, ...], int, dict[str, Any]]:
    """The tensors, the programs side by side and the constants that both kernels take."""
    tensors = (logits, *logits.stride(), labels.contiguous())
    block = min(max(triton.next_power_of_2(logits.shape[1]), 16), COLUMNS)
    constants = {"DTYPE": common.language_dtype(logits), "R": ROWS, "C": block}
    return tensors, triton.cdiv(logits.shape[1], block), constants


def forward(logits: Tensor, labels: Tensor) -> Tensor:
    rows, columns = logits.shape
    tensors, tiles, constants = _call(logits, labels)
    chunks = triton.cdiv(rows, ROWS * STEPS)
    out = logits.new_empty(chunks, 4, columns, dtype=common.compute_dtype(logits))
    with torch.cuda.device_of(logits):
        common.launch(
            equalization_fwd, chunks * tiles, *tensors, out, rows, columns, tiles, STEPS=STEPS,
            **constants,
        )  # fmt: skip
        return out.sum(0, dtype=torch.float64)


def backward(grad: Tensor, logits: Tensor, labels: Tensor, needs: int) -> Tensor:
    if not needs & 1:
        return logits.new_empty(0)
    rows, columns = logits.shape
    tensors, tiles, constants = _call(logits, labels)
    result = torch.empty_like(logits, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(logits):
        common.launch(
            equalization_bwd, triton.cdiv(rows, ROWS) * tiles, grad[:2].contiguous(), *tensors,
            result, rows, columns, tiles, **constants,
        )  # fmt: skip
    return result


implement("equalization", "triton", forward, helper="torch.sum")
implement("equalization_backward", "triton", backward)
