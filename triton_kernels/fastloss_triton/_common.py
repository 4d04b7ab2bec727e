"""What the kernels of all stems share: launches, operands, reduction, elementary functions."""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements per program: 8 for each of 128 lanes, enough loads in flight to cover memory latency. The
# chunks of a sum depend on this and on the shape only, so results are the same on every GPU.
BLOCK = 1024
NUM_WARPS = 4

# Decorator of the kernels. Triton compiles a kernel anew for sizes and strides that 16 divides, and
# for those that are 1; sizes change with every batch, and these kernels gain nothing from it.
kernel = triton.jit(
    do_not_specialize=[
        "n", "programs", "divisor", "ignore_index",
        *(f"{name}_{part}" for name in "gw" for part in ("columns", "row", "column")),
    ]
)  # fmt: skip

_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
_COMPUTE = {torch.float64: torch.float64}


def launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
    """Run `kernel` on `programs` programs of the current device; none for an empty problem.

    Floating contraction is off: Triton's default for it changes with the version, and these
    kernels wait for memory anyway.
    """
    if programs:
        options = {"num_warps": NUM_WARPS, "enable_fp_fusion": False}
        kernel[(programs,)](*args, **(options | constants))


def compute_dtype(tensor: Tensor) -> torch.dtype:
    return _COMPUTE.get(tensor.dtype, torch.float32)


def result_dtype(tensor: Tensor, widen: bool) -> torch.dtype:
    return compute_dtype(tensor) if widen else tensor.dtype


def language_dtype(tensor: Tensor) -> Any:
    """The dtype kernels compute in, as Triton's."""
    return _DTYPES[compute_dtype(tensor)]


def bits(value: float) -> int:
    """The bits of a double as an integer; a kernel's float arguments are rounded to float32."""
    return struct.unpack("q", struct.pack("d", value))[0]


@dataclass(frozen=True)
class Operand:
    """A tensor of any strides read in row-major order: element i is at
    (i // columns) * row_stride + (i % columns) * column_stride.
    `mode` is 0 for an absent tensor, 1 for a dense, 2 for a strided one.
    """

    tensor: Tensor
    columns: int
    row_stride: int
    column_stride: int
    mode: int

    def arguments(self) -> tuple[Any, ...]:
        return self.tensor, self.columns, self.row_stride, self.column_stride


def operand(tensor: Tensor | None, absent: Tensor) -> Operand:
    """Merge the dimensions that lie evenly in memory; copy where more than two remain."""
    if tensor is None:
        return Operand(absent, 1, 0, 0, 0)
    if tensor.is_contiguous():
        return Operand(tensor, 1, 0, 0, 1)
    merged: list[tuple[int, int]] = []  # (size, stride), innermost first
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride())):
        if size == 1:
            continue
        if merged and stride == merged[-1][1] * merged[-1][0]:
            merged[-1] = (merged[-1][0] * size, merged[-1][1])
        else:
            merged.append((size, stride))
    if len(merged) > 2:
        return Operand(tensor.contiguous(), 1, 0, 0, 1)
    columns, column_stride = merged[0]
    return Operand(tensor, columns, merged[1][1] if len(merged) > 1 else 0, column_stride, 2)


@triton.jit
def _is_full(i, n):
    """Whether the elements i of this program are all below n.

    Only the last program needs a mask. Where one is, loads and stores are vectors only if 16
    divides n, which for a number of boxes is the exception.
    """
    return (tl.program_id(0).to(tl.int64) + 1) * i.shape[0] <= n


@triton.jit
def load_block(tensor, i, n):
    """Elements i (BLOCK), those of this program, of a dense tensor of n; 0 beyond it."""
    if _is_full(i, n):
        x = tl.load(tensor + i)
    else:
        x = tl.load(tensor + i, mask=i < n, other=0)
    return x


@triton.jit
def store_block(tensor, x, i, n):
    """Write what `load_block` reads, converted to the dtype of the tensor."""
    x = x.to(tensor.dtype.element_ty)
    if _is_full(i, n):
        tl.store(tensor + i, x)
    else:
        tl.store(tensor + i, x, mask=i < n)


@triton.jit
def load_operand(tensor, columns, row_stride, column_stride, i, n, MODE: tl.constexpr):
    """Elements i (BLOCK), those of this program, of an Operand of n; MODE is not 0.

    Device functions here end in one return or in if/else: Triton compiles what follows an early
    return in a constexpr branch too.
    """
    if MODE == 1:
        x = load_block(tensor, i, n)
    else:
        at = (i // columns) * row_stride + (i % columns) * column_stride
        x = tl.load(tensor + at, mask=i < n, other=0.0)
    return x


@dataclass(frozen=True)
class Reduction:
    """Weight, divisor and kind of reduction of a loss with `count` unreduced values."""

    weight: Operand
    avg_factor: Tensor
    has_avg_factor: bool
    divisor: int
    none: bool
    count: int
    programs: int


def reduction_of(
    like: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    divisor: float | None,
    reduction: str,
    count: int,
    mean_count: int,
    block: int = BLOCK,
) -> Reduction:
    """`block` is the number of unreduced values per program."""
    mean = reduction == "mean"
    number = (divisor if divisor is not None else max(mean_count, 1)) if mean else 1.0
    has_avg_factor = mean and avg_factor is not None
    return Reduction(
        operand(weight, like),
        avg_factor if has_avg_factor else like,
        has_avg_factor,
        bits(float(number)),
        reduction == "none",
        count,
        triton.cdiv(count, block),
    )


@triton.jit
def load_divisor(avg_factor, divisor, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr):
    if HAS_AVG_FACTOR:
        value = tl.load(avg_factor).to(DTYPE)
    else:
        value = divisor.to(tl.float64, bitcast=True).to(DTYPE)
    return value


@kernel
def finish_sum(
    partial,  # (programs)
    result,  # ()
    avg_factor,  # ()
    divisor: tl.int64,
    programs,
    HAS_AVG_FACTOR: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum of the partial sums in a fixed order, over the divisor."""
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), DTYPE)
    whole = programs // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        total += tl.load(partial + start + lanes)
    total += tl.load(partial + whole + lanes, mask=whole + lanes < programs, other=0.0)
    value = tl.sum(total, 0) / load_divisor(avg_factor, divisor, HAS_AVG_FACTOR, DTYPE)
    tl.store(result, value.to(result.dtype.element_ty))


def reduce(
    r: Reduction, like: Tensor, widen: bool, shape: Sequence[int], run: Callable[[Tensor], None]
) -> Tensor:
    """`run(out)` writes the weighted losses, or their sum per program; the rest is done here."""
    if r.none:
        out = like.new_empty(shape, dtype=result_dtype(like, widen))
        run(out)
        return out
    partial = partial_sums(r, like)
    run(partial)
    return finish(r, like, widen, partial)


def partial_sums(r: Reduction, like: Tensor) -> Tensor:
    """Room for the sum of each program."""
    return like.new_empty(r.programs, dtype=compute_dtype(like))


def finish(r: Reduction, like: Tensor, widen: bool, partial: Tensor) -> Tensor:
    """The reduced loss from the partial sums."""
    result = like.new_empty((), dtype=result_dtype(like, widen))
    launch(
        finish_sum, 1, partial, result, r.avg_factor, r.divisor, r.programs,
        HAS_AVG_FACTOR=r.has_avg_factor, DTYPE=language_dtype(like), BLOCK=BLOCK,
    )  # fmt: skip
    return result


@triton.jit
def store_loss(
    out, loss, i, n, weight, w_columns, w_row, w_column,
    W_MODE: tl.constexpr, NONE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Weight the losses of a block and write them, or their sum."""
    if W_MODE != 0:
        loss *= load_operand(weight, w_columns, w_row, w_column, i, n, W_MODE).to(DTYPE)
    if NONE:
        store_block(out, loss, i, n)
    else:
        tl.store(out + tl.program_id(0), tl.sum(tl.where(i < n, loss, 0.0), 0))


@triton.jit
def load_incoming(
    grad, g_columns, g_row, g_column, avg_factor, divisor, i, n,
    G_MODE: tl.constexpr, NONE: tl.constexpr, HAS_AVG_FACTOR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """d result / d weighted loss for the elements i; G_MODE 0 is an incoming gradient of 1."""
    if NONE:
        g = load_operand(grad, g_columns, g_row, g_column, i, n, G_MODE).to(DTYPE)
    else:
        total = load_divisor(avg_factor, divisor, HAS_AVG_FACTOR, DTYPE)
        if G_MODE == 0:
            one = 1.0 / total
        else:
            one = tl.load(grad).to(DTYPE) / total
        g = tl.zeros(i.shape, DTYPE) + one
    return g


def gradients_like(needs: int, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    """A gradient for each input whose bit of `needs` is set, else an empty tensor of the first."""
    return tuple(
        torch.empty_like(x, memory_format=torch.contiguous_format)
        if x is not None and needs >> bit & 1
        else inputs[0].new_empty(0)
        for bit, x in enumerate(inputs)
    )


TINY: tl.constexpr = tl.constexpr(1.17549435e-38)
TINY_DOUBLE: tl.constexpr = tl.constexpr(2.2250738585072014e-308)
PI_2: tl.constexpr = tl.constexpr(math.pi / 2)
PI_4: tl.constexpr = tl.constexpr(math.pi / 4)


@triton.jit
def at_least(x, BOUND: tl.constexpr):
    """max(x, BOUND), NaN kept; tl.maximum would round the bound to float32."""
    return tl.where(x < BOUND, BOUND, x).to(x.dtype)


@triton.jit
def log1p_unit(e):
    """log(1 + e) for e in [0, 1] with full relative accuracy; see csrc/common/math.h."""
    if e.dtype == tl.float64:
        u = 1.0 + e
        result = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    else:
        s = e / (2.0 + e)
        z = s * s
        y = z * (1 / 13) + 1 / 11
        y = y * z + 1 / 9
        y = y * z + 1 / 7
        y = y * z + 1 / 5
        y = y * z + 1 / 3
        result = 2.0 * (s + s * (z * y))
    return result


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0: the rounding of 1 + x is undone by the quotient."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def power(x, Y: tl.constexpr):
    """x^Y for x >= 0, with 0^0 = 1; NaN for negative x or NaN."""
    if Y == 0.0:
        value = tl.where(x == x, 1.0, x)
    elif Y == 1.0:
        value = x
    elif Y == 2.0:
        value = x * x
    elif Y == 4.0:
        value = (x * x) * (x * x)
    else:
        value = tl.exp(Y * tl.log(tl.where(x > 0.0, x, 1.0)))
        value = tl.where(x > 0.0, value, x * float("nan"))
        value = tl.where(x == 0.0, 0.0, value)
    return value


@triton.jit
def power_slope(x, Y: tl.constexpr):
    """Derivative of x^Y, finite at 0."""
    if Y == 0.0:
        slope = x * 0.0
    elif Y == 2.0:
        slope = 2.0 * x
    else:
        slope = Y * power(at_least(x, TINY), Y - 1.0)
    return slope


@triton.jit
def atan_ratio(y, x):
    """atan(y / x) in [-pi/2, pi/2], 0 where both are 0; see csrc/common/math.h."""
    ay, ax = tl.abs(y), tl.abs(x)
    steep = ay > 2.414213562373095 * ax
    middle = ay > 0.4142135623730951 * ax
    numerator = tl.where(steep, -ax, tl.where(middle, ay - ax, ay))
    denominator = tl.where(steep, ay, tl.where(middle, ay + ax, ax))
    zero = tl.zeros_like(y)  # a where of two constants alone would round them to float32
    base = tl.where(steep, zero + PI_2, tl.where(middle, zero + PI_4, zero))
    t = numerator / tl.where(denominator == 0.0, 1.0, denominator)
    z = t * t
    if y.dtype == tl.float64:  # rational approximation of Cephes, |t| < 0.66
        p = z * -8.750608600031904122785e-1 - 1.615753718733365076637e1
        p = p * z - 7.500855792314704667340e1
        p = p * z - 1.228866684490136173410e2
        p = p * z - 6.485021904942025371773e1
        q = z + 2.485846490142306297962e1
        q = q * z + 1.650270098316988542046e2
        q = q * z + 4.328810604912902668951e2
        q = q * z + 4.853903996359136964868e2
        q = q * z + 1.945506571482613964425e2
        tail = z * p / q
    else:
        p = z * 8.05374449538e-2 - 1.38776856032e-1
        p = p * z + 1.99777106478e-1
        p = p * z - 3.33329491539e-1
        tail = p * z
    result = base + (tail * t + t)
    return tl.where((y < 0.0) != (x < 0.0), -result, result)
