"""What the strategies of all stems draw: shapes, layouts, values, dtypes, weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor

from fastloss.testing import TOLERANCES

# Around the widths of vectors and of their unrolled loops, and around the block of 512.
COUNTS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 129)
COUNTS += (255, 257, 511, 512, 513, 1023, 1024, 1025, 1537)
# Signed zeros, subnormal numbers, the ends of the range of each dtype, what is not finite.
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-310, 1e-45, -1e-40, 1e-38, 6e-8, 1e-7, -1e-3, 100.0)
SPECIAL += (88.0, -104.0, 65504.0, -7e4, 1e9, 2.0**60, -1e19, 1e30, 3.4028234663852886e38)
SPECIAL += (-3e38, 1e300, torch.inf, -torch.inf, torch.nan)
# Weights are among these: larger ones turn the last bit of a loss into another result, infinite
# ones into inf or inf * 0.
MODERATE = tuple(x for x in SPECIAL if abs(x) <= 100)

counts = st.sampled_from(COUNTS) | st.integers(0, 1200)
small_counts = st.sampled_from(COUNTS[:14]) | st.integers(0, 40)
seeds = st.integers(0, 2**31)
dtypes = st.sampled_from(list(TOLERANCES))
wild = st.booleans()  # whether special values are among the inputs


def how_alike(special: bool) -> str:
    """`Case.compare` where the formula holds for special values too."""
    return "alike" if special else "exactly"


def _exact(x: Tensor) -> Tensor:
    """Memory that ends with the last element, so that reading on is seen by AddressSanitizer."""
    return x.clone(memory_format=torch.contiguous_format)


def _poison(x: Tensor) -> Tensor:
    """What fills the gaps between elements: no kernel may let it reach a result."""
    return torch.full_like(x, torch.nan if x.is_floating_point() else -9)


def _padded(x: Tensor) -> Tensor:
    return torch.stack((x, _poison(x)), -1)[..., 0]


def _rows_apart(x: Tensor) -> Tensor:
    return torch.cat((x, _poison(x)), -1)[..., : x.shape[-1]] if x.dim() else x


def _transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT if x.dim() > 1 else x


def _first_dim_last(x: Tensor) -> Tensor:
    return x.movedim(0, -1).contiguous().movedim(-1, 0) if x.dim() else x


def _offset(x: Tensor) -> Tensor:
    """Starts at an address that suits no vector."""
    return torch.cat((_poison(x.new_empty(1)), x.flatten()))[1:].view(x.shape)


def _expanded(x: Tensor) -> Tensor:
    return _exact(x[:1]).expand_as(x) if x.dim() and len(x) else x


layouts = st.sampled_from(
    (_exact, _exact, _padded, _rows_apart, _transposed, _first_dim_last, _offset, _expanded)
)


@st.composite
def shapes(draw: st.DrawFn, sizes: st.SearchStrategy[int] = counts) -> tuple[int, ...]:
    """One to three dimensions whose product is about the size drawn."""
    count, part = draw(sizes), draw(st.integers(1, 5))
    forms = ((count,), (count // part, part), (part, count // part), (2, part, count // part // 2))
    return draw(st.sampled_from(forms))


def normal(seed: int, shape: Sequence[int]) -> Tensor:
    """Normally distributed float64 numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


@st.composite
def with_special_values(draw: st.DrawFn, x: Tensor, values: Sequence[float] = SPECIAL) -> Tensor:
    """A copy of x with up to six elements replaced."""
    x = x.clone(memory_format=torch.contiguous_format)
    flat = x.view(-1)
    for value in draw(st.lists(st.sampled_from(values), max_size=6)) if len(flat) else ():
        flat[draw(st.integers(0, len(flat) - 1))] = value
    return x


@st.composite
def weights(draw: st.DrawFn, shape: Sequence[int], special: bool) -> Tensor | None:
    """Non-negative float64 weights that broadcast to `shape`, or none."""
    if draw(st.booleans()):
        return None
    kept = [1 if draw(st.booleans()) else size for size in shape]
    weight = normal(draw(seeds), kept[draw(st.integers(0, len(kept))) :]).abs()
    return draw(with_special_values(weight, MODERATE)) if special else weight


@st.composite
def reductions(draw: st.DrawFn) -> dict[str, Any]:
    """The options `reduction` and `avg_factor`."""
    reduction = draw(st.sampled_from(("none", "mean", "sum")))
    if reduction == "sum" or draw(st.booleans()):
        return {"reduction": reduction}
    number = draw(st.sampled_from((1.0, 3.0, 0.5, 1000.0)))
    factor = draw(st.sampled_from((number, torch.tensor(number), torch.tensor([number]))))
    if isinstance(factor, Tensor):
        factor = factor.to(draw(dtypes))
    return {"reduction": reduction, "avg_factor": factor}


@st.composite
def placed(draw: st.DrawFn, tensors: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """The tensors, each in a layout of its own; mostly in one dtype, sometimes in several."""
    common, result = draw(dtypes), {}
    one_dtype = draw(st.integers(0, 3)) > 0
    for name, x in tensors.items():
        if x is None:
            continue
        if x.is_floating_point():
            x = x.to(common if one_dtype else draw(dtypes))
        result[name] = draw(layouts)(x)
    return result
