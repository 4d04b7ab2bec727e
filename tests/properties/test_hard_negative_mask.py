"""Hard negatives against a sort of each row in Python."""

import math

import hypothesis.strategies as st
import torch
from hypothesis import given
from strategies import layouts

import fastloss.functional as F
from fastloss.testing import implementation

losses = st.sampled_from((0.0, -0.0, 1.0, -1.0, 2.5, 1e-30, math.inf, -math.inf, math.nan))
rows = st.lists(st.tuples(losses | st.floats(-4, 4, width=16), st.booleans()), max_size=12)


def hardest_first(i, value):
    """NaN before all numbers; of equal ones the first."""
    return (False, 0.0, i) if math.isnan(value) else (True, -value, i)


def chosen(row, count):
    """The mask of one row."""
    order = sorted((hardest_first(i, value) for i, (value, negative) in enumerate(row) if negative))
    hard = {i for _, _, i in order[: max(count, 0)]}
    return [i in hard for i in range(len(row))]


@given(rows, st.integers(-1, 13), layouts, st.sampled_from((torch.float16, torch.float64)))
def test_equals_a_sort(row, count, layout, dtype):
    loss = torch.tensor([[value for value, _ in row]] * 2, dtype=torch.float64).to(dtype)
    negative = torch.tensor([[n for _, n in row]] * 2, dtype=torch.bool)
    rounded = [(value, n) for value, (_, n) in zip(loss[0].tolist(), row)]
    counts = torch.tensor([count, 2**40])
    loss, negative = layout(loss), layout(negative)
    expected = torch.tensor([chosen(rounded, count), chosen(rounded, 2**40)], dtype=torch.bool)
    assert torch.equal(F.hard_negative_mask(loss, negative, counts), expected)
    with implementation("reference"):
        assert torch.equal(F.hard_negative_mask(loss, negative, counts), expected)


@given(
    st.integers(0, 2**31), st.sampled_from((31, 33, 300, 2047, 2049, 9000)),
    st.sampled_from((0.0, 1.0, 30.0)), st.sampled_from((torch.float16, torch.float64)),
)  # fmt: skip
def test_many_negatives(seed, size, steps, dtype):
    """Each way to search: all alike, few different, all different; counts, masses."""
    g = torch.Generator().manual_seed(seed)
    loss = torch.randn(2, size, generator=g, dtype=torch.float64)
    loss = ((loss * steps).round() if steps < 2 else loss * steps).to(dtype)
    negative, share = torch.rand(2, size, generator=g) < 0.8, torch.rand(2, generator=g)
    mass = torch.randint(-1, 5, (2, size), generator=g) / 4
    for arguments in (
        (loss, negative, (share * size).long()),
        (loss, mass, share * size),
        (loss, mass.double(), torch.tensor([torch.inf, torch.nan])),
    ):
        with implementation("reference"):
            expected = F.hard_negative_mask(*arguments)
        assert torch.equal(F.hard_negative_mask(*arguments), expected)


def test_doubles_are_not_rounded():
    loss = torch.tensor([[1.0, 1 + 1e-12, 1 - 1e-12]], dtype=torch.float64)
    mask = F.hard_negative_mask(loss, torch.ones(1, 3).bool(), torch.tensor([1]))
    assert mask.tolist() == [[False, True, False]]


def test_rows_of_half_precision_on_several_threads():
    """Each thread has rows, and a buffer, of its own."""
    g = torch.Generator().manual_seed(0)
    loss = torch.randn(64, 4000, generator=g).half()
    negative, count = torch.rand(64, 4000, generator=g) < 0.7, torch.arange(64) * 40
    with implementation("reference"):
        expected = F.hard_negative_mask(loss, negative, count)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(F.hard_negative_mask(loss, negative, count), expected)
    finally:
        torch.set_num_threads(threads)
