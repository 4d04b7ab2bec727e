"""Triton kernels of the stem `segmentation_loss`: one launch each, everything in float64.

The weights and given divisors of the terms are arguments, all else is compiled in: those may change
from step to step, the rest belongs to the loss.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._library import implement
from ..reference import segmentation_loss as reference
from ..reference.segmentation_table import STATISTICS as NAMES
from . import _common as common
from ._terms import REGION, averaged, correlation, region, region_slopes

SLOTS = 9  # terms that a kernel takes; the reference computes more
LARGEST = 2048  # elements of a tile of groups and classes
# The statistics whose derivatives the functions of `_terms` return, in their order, for each kind.
READS = {
    "cross_entropy": ("nll", "neg_log_prob"),
    "softmax_focal": ("softmax_focal", "softmax_focal_term"),
    "sigmoid_focal": ("sigmoid_focal", "sigmoid_focal_term"),
    "soft_bce": ("bce_positive", "bce_negative"),
    "region": ("overlap", "probability", "target"),
    "mcc": ("product", "probability", "target"),
}

_kernel = triton.jit(
    do_not_specialize=[
        "t_g", "t_s", "t_c", "u_t", "u_s", "u_c", "g_stride", "groups", "classes",
        *(f"{name}{i}" for name in ("weight", "divisor") for i in range(SLOTS)),
    ]
)  # fmt: skip


@triton.jit
def _load_weights(
    class_weights, u_t, u_s, u_c, classes, c, TERM: tl.constexpr, WEIGHTED: tl.constexpr
):
    """Rows u and v of a term; 0 beyond the classes."""
    mask = c < classes
    if WEIGHTED:
        at = class_weights + u_t * TERM + c * u_c
        u = tl.load(at, mask=mask, other=0.0).to(tl.float64)
        v = tl.load(at + u_s, mask=mask, other=0.0).to(tl.float64)
    else:
        u = mask.to(tl.float64)
        v = u
    return u, v


@triton.jit
def _rounded(value, out):
    """A float64 in the dtype of `out`, to the half ones by way of float32: Triton's interpreter
    has no direct conversion to bfloat16."""
    result = value
    if out.dtype.element_ty != tl.float64:
        result = value.to(tl.float32)
    return result.to(out.dtype.element_ty)


@_kernel
def segmentation_loss_fwd(
    table, t_g, t_s, t_c,  # (G, S, C)
    class_weights, u_t, u_s, u_c,  # (T, 2, C)
    out,  # (1 + T)
    groups, classes,
    weight0: tl.int64, weight1: tl.int64, weight2: tl.int64, weight3: tl.int64, weight4: tl.int64,
    weight5: tl.int64, weight6: tl.int64, weight7: tl.int64, weight8: tl.int64,
    divisor0: tl.int64, divisor1: tl.int64, divisor2: tl.int64, divisor3: tl.int64,
    divisor4: tl.int64, divisor5: tl.int64, divisor6: tl.int64, divisor7: tl.int64,
    divisor8: tl.int64,
    KINDS: tl.constexpr, OPTIONS: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr,
    STATISTICS: tl.constexpr, WEIGHTED: tl.constexpr, GB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    weights = (weight0, weight1, weight2, weight3, weight4, weight5, weight6, weight7, weight8)
    divisors = (
        divisor0, divisor1, divisor2, divisor3, divisor4, divisor5, divisor6, divisor7, divisor8
    )  # fmt: skip
    c = tl.arange(0, CB)
    source = (table, t_g, t_s, t_c, groups, classes, c)
    total = tl.sum(tl.zeros((CB,), tl.float64), 0)
    for i in tl.static_range(COUNT):
        u, v = _load_weights(class_weights, u_t, u_s, u_c, classes, c, i, WEIGHTED)
        if KINDS[i] == REGION:
            value = region(source, u, OPTIONS, WIDTH * i, STATISTICS, GB)
        elif KINDS[i] > REGION:
            value, _, _, _ = correlation(source, OPTIONS, WIDTH * i, STATISTICS, GB)
        else:
            value, _, _ = averaged(
                source, u, v, divisors[i], KINDS[i], OPTIONS, WIDTH * i, STATISTICS, GB
            )
        value *= weights[i].to(tl.float64, bitcast=True)
        tl.store(out + 1 + i, _rounded(value, out))
        total += value
    tl.store(out, _rounded(total, out))


@_kernel
def segmentation_loss_bwd(
    grad, g_stride,  # (1 + T)
    table, t_g, t_s, t_c,  # (G, S, C)
    class_weights, u_t, u_s, u_c,  # (T, 2, C)
    out,  # (G, S, C)
    groups, classes,
    weight0: tl.int64, weight1: tl.int64, weight2: tl.int64, weight3: tl.int64, weight4: tl.int64,
    weight5: tl.int64, weight6: tl.int64, weight7: tl.int64, weight8: tl.int64,
    divisor0: tl.int64, divisor1: tl.int64, divisor2: tl.int64, divisor3: tl.int64,
    divisor4: tl.int64, divisor5: tl.int64, divisor6: tl.int64, divisor7: tl.int64,
    divisor8: tl.int64,
    KINDS: tl.constexpr, OPTIONS: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr,
    READ: tl.constexpr, STATISTICS: tl.constexpr, COLUMNS: tl.constexpr,
    WEIGHTED: tl.constexpr, GB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """A program has the columns of one group."""
    weights = (weight0, weight1, weight2, weight3, weight4, weight5, weight6, weight7, weight8)
    divisors = (
        divisor0, divisor1, divisor2, divisor3, divisor4, divisor5, divisor6, divisor7, divisor8
    )  # fmt: skip
    c = tl.arange(0, CB)
    source = (table, t_g, t_s, t_c, groups, classes, c)
    sums = ()
    for _ in tl.static_range(COLUMNS):
        sums = sums + (tl.zeros((CB,), tl.float64),)
    for i in tl.static_range(COUNT):
        u, v = _load_weights(class_weights, u_t, u_s, u_c, classes, c, i, WEIGHTED)
        if KINDS[i] == REGION:
            slopes = region_slopes(source, tl.program_id(0), u, OPTIONS, WIDTH * i, STATISTICS, GB)
        elif KINDS[i] > REGION:
            _, a, b, d = correlation(source, OPTIONS, WIDTH * i, STATISTICS, GB)
            slopes = (a, b, d)
        else:
            _, a, b = averaged(
                source, u, v, divisors[i], KINDS[i], OPTIONS, WIDTH * i, STATISTICS, GB
            )
            slopes = (a, b)
        g = tl.load(grad).to(tl.float64) + tl.load(grad + (i + 1) * g_stride).to(tl.float64)
        g *= weights[i].to(tl.float64, bitcast=True)
        added = ()
        for j in tl.static_range(COLUMNS):
            value = sums[j]
            for k in tl.static_range(len(slopes)):
                if READ[3 * i + k] == j:
                    value += g * slopes[k]
            added = added + (value,)
        sums = added
    row = out + tl.program_id(0).to(tl.int64) * COLUMNS * classes
    for j in tl.static_range(COLUMNS):
        tl.store(row + j * classes + c, sums[j], mask=c < classes)


def _columns(kinds: Sequence[int], statistics: int) -> tuple[int, ...]:
    """Where what a term reads stands in the table, three for each; -1 if nothing asked for it."""
    position = {
        name: (statistics & ((1 << bit) - 1)).bit_count()
        for bit, name in enumerate(NAMES)
        if statistics >> bit & 1
    }
    names = [(*READS[reference.KINDS[kind]], "")[:3] for kind in kinds]
    return tuple(position.get(name, -1) for three in names for name in three)


def _parameters(
    kinds: Sequence[int], parameters: Sequence[float]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """What varies, the bits of all weights and divisors; and what is compiled in."""
    weights, divisors, compiled = [0] * SLOTS, [0] * SLOTS, []
    for i, kind in enumerate(kinds):
        weight, *options = parameters[i * reference.WIDTH : (i + 1) * reference.WIDTH]
        weights[i] = common.bits(weight)
        if reference.PARAMETERS[reference.KINDS[kind]][0] == "divisor":
            divisors[i] = common.bits(options[0])
            options[0] = float(options[0] >= 0)
        compiled += options
    return (*weights, *divisors), tuple(compiled)


def _call(
    table: Tensor, class_weights: Tensor | None, statistics: int, kinds: Sequence[int],
    parameters: Sequence[float],
) -> tuple[tuple[Any, ...], tuple[int, ...], dict[str, Any]]:  # fmt: skip
    """The tensors, the numbers and the constants that both kernels take."""
    groups, _, classes = table.shape
    weighted = class_weights is not None
    weights = (class_weights, *class_weights.stride()) if weighted else (table, 0, 0, 0)
    varying, options = _parameters(kinds, parameters)
    class_block = triton.next_power_of_2(max(classes, 1))
    group_block = min(triton.next_power_of_2(max(groups, 1)), max(LARGEST // class_block, 1))
    constants = {
        "KINDS": tuple(kinds), "OPTIONS": options, "WIDTH": reference.WIDTH - 1,
        "COUNT": len(kinds), "STATISTICS": statistics, "WEIGHTED": weighted, "GB": group_block,
        "CB": class_block, "num_warps": 4 if group_block * class_block > 256 else 1,
    }  # fmt: skip
    return (table, *table.stride(), *weights), (groups, classes, *varying), constants


def forward(
    table: Tensor, class_weights: Tensor | None, statistics: int, kinds: Sequence[int],
    parameters: Sequence[float], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    if len(kinds) > SLOTS:
        return reference.forward(table, class_weights, statistics, kinds, parameters, dtype)
    tensors, numbers, constants = _call(table, class_weights, statistics, kinds, parameters)
    out = table.new_empty(1 + len(kinds), dtype=dtype)
    with torch.cuda.device_of(table):
        common.launch(segmentation_loss_fwd, 1, *tensors, out, *numbers, **constants)
    return out


def backward(
    grad: Tensor, table: Tensor, class_weights: Tensor | None, statistics: int,
    kinds: Sequence[int], parameters: Sequence[float], dtype: torch.dtype, needs: int,
) -> Tensor:  # fmt: skip
    if len(kinds) > SLOTS:
        arguments = (table, class_weights, statistics, kinds, parameters, dtype, needs)
        return reference.backward(grad, *arguments)[0]
    tensors, numbers, constants = _call(table, class_weights, statistics, kinds, parameters)
    out = torch.empty_like(table, memory_format=torch.contiguous_format)
    with torch.cuda.device_of(table):
        common.launch(
            segmentation_loss_bwd, table.shape[0], grad, *grad.stride(), *tensors, out, *numbers,
            READ=_columns(kinds, statistics), COLUMNS=table.shape[1], **constants,
        )  # fmt: skip
    return out


implement("segmentation_loss", "triton", forward)
implement("segmentation_loss_backward", "triton", backward)
