"""What the property tests draw, and the comparison of the dispatched kernel with the reference."""

import hypothesis.strategies as st
import torch
from hypothesis import settings
from torch import Tensor

from fastloss.testing import TOLERANCES, Sample, assert_matches

# The same examples on every machine; numbers are never timed.
settings.register_profile("fastloss", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("fastloss")

seeds = st.integers(0, 2**31)
dtypes = st.sampled_from(list(TOLERANCES))
shapes = st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple)


def rows(element: st.SearchStrategy[float], width: int) -> st.SearchStrategy[Tensor]:
    """Float64 tensors of shape (1..6, width)."""
    row = st.lists(element, min_size=width, max_size=width)
    return st.lists(row, min_size=1, max_size=6).map(lambda x: torch.tensor(x, dtype=torch.float64))


def _padded(x: Tensor) -> Tensor:
    return torch.stack((x, torch.full_like(x, 5)), -1)[..., 0]


def _transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT if x.dim() > 1 else x


def _offset(x: Tensor) -> Tensor:
    return torch.cat((x.flatten()[:1], x.flatten()))[1:].view(x.shape)


def _expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x) if x.dim() else x


layouts = st.sampled_from((torch.clone, _padded, _transposed, _offset, _expanded))


def tensor(seed: int, *shape: int) -> Tensor:
    """Normally distributed float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_like_reference(sample: Sample, dtype: torch.dtype, layout) -> None:
    """Value and gradients of the dispatched kernel on inputs of that dtype and layout."""
    given = sample.cast(dtype).map(layout)
    value, gradients = given.run()
    expected, expected_gradients = given.expected()
    assert_matches(value, expected, scale=sample.scale)
    for name, gradient in gradients.items():
        assert_matches(gradient, expected_gradients[name], what=name, scale=sample.scale)
