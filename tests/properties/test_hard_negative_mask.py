"""Hard negatives against a sort of each row in Python."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from strategies import layouts

import fastloss.functional as F
from fastloss.testing import implementation

quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of Triton's interpreter
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


halves = st.integers(-1, 6).map(lambda n: n / 2)
any_mass = halves | st.sampled_from((0.0, -0.0, -3.0, 1e-3, 0.1, 0.3, 1 / 3, 100.0))
budgets = st.integers(-1, 20).map(lambda n: n / 2) | st.sampled_from((math.inf, -math.inf, 0.3))


def chosen_by_mass(row, budget):
    """The mask of one row of (loss, mass); sums of all that come before, in their order."""
    order = sorted(hardest_first(i, value) for i, (value, _) in enumerate(row))
    hard, total = set(), 0.0
    for _, _, i in order:
        total += max(row[i][1], 0.0)
        if row[i][1] > 0 and total <= budget:
            hard.add(i)
    return [i in hard for i in range(len(row))]


def check_masses(values, masses, budget, layout, dtype):
    """Of two rows, the second of which has the masses in reverse."""
    loss = torch.tensor([values] * 2, dtype=torch.float64).to(dtype)
    mass = torch.tensor([masses, masses[::-1]], dtype=torch.float64).to(dtype)
    count = torch.tensor([budget, 1.5], dtype=torch.float64)
    loss, mass = layout(loss), layout(mass)
    expected = [
        chosen_by_mass([*zip(*row)], limit)
        for *row, limit in zip(loss.tolist(), mass.tolist(), count.tolist())
    ]
    expected = torch.tensor(expected, dtype=torch.bool).reshape(loss.shape)
    for language in ("auto", "reference", "triton"):
        with implementation(language) if language != "auto" else torch.no_grad():
            assert torch.equal(F.hard_negative_mask(loss, mass, count), expected)


@quiet
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(losses | st.floats(-4, 4, width=16), halves), max_size=12), budgets,
       layouts, st.sampled_from((torch.float16, torch.float64)))  # fmt: skip
def test_halves_equal_a_sort(triton_kernels, row, budget, layout, dtype):
    """Their sums are exact, and as large as the budget now and then."""
    check_masses([x for x, _ in row], [m for _, m in row], budget, layout, dtype)


@quiet
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations([*range(9)]), st.lists(any_mass, min_size=9, max_size=9),
       st.integers(0, 20), layouts)  # fmt: skip
def test_any_masses_equal_a_sort(triton_kernels, values, masses, budget, layout):
    """No sum is so near to the budget that rounding would matter."""
    check_masses([float(x) for x in values], masses, budget + 1.234e-4, layout, torch.float64)


@quiet
@pytest.mark.parametrize("language", ("auto", "reference", "triton"))
def test_masses_of_ones_are_counts(language, triton_kernels):
    """In rows of several blocks, with equal losses on both sides of their bounds."""
    g = torch.Generator().manual_seed(1)
    loss = torch.randn(3, 2500, generator=g).mul(8).round()
    negative, count = torch.rand(3, 2500, generator=g) < 0.7, torch.tensor([1200, 0, 5000])
    with implementation(language) if language != "auto" else torch.no_grad():
        expected = F.hard_negative_mask(loss, negative, count)
        masses = negative.float()
        assert expected.sum(1).tolist() == [1200, 0, int(negative[2].sum())]
        for dtype in (torch.float16, torch.float64):
            found = F.hard_negative_mask(loss, masses.to(dtype), count)
            assert torch.equal(found, expected)
            half = F.hard_negative_mask(loss, masses.to(dtype) / 2, count / 2)
            assert torch.equal(half, expected)


def test_dense_masses_on_several_threads():
    g = torch.Generator().manual_seed(0)
    loss, masses = torch.randn(64, 4000, generator=g), torch.rand(64, 4000, generator=g)
    budget = torch.linspace(0, 2100, 64)
    found = F.hard_negative_mask(loss, masses, budget)
    hard = torch.where(found, masses.double(), 0).sum(1)
    assert (hard <= budget + 1e-9).all()
    # The hardest that is left out would not have fitted.
    rest = loss.masked_fill(found, -torch.inf)
    first = masses.gather(1, rest.argmax(1, keepdim=True))[:, 0]
    full = found.all(1)
    assert ((hard + first > budget - 1e-9) | full).all() and not full.all()
    assert (loss.masked_fill(~found, torch.inf).amin(1) >= rest.amax(1))[1:].all()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(F.hard_negative_mask(loss, masses, budget), found)
    finally:
        torch.set_num_threads(threads)


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


@given(st.integers(0, 2**31), st.integers(0, 5), st.integers(0, 3))
def test_sums_of_masses_that_round(seed, group, steps):
    """Limits are the masses of losses with the same leading bits, or a few units in the last place
    less: the masses chosen are the hardest, and one more would be too much, but for rounding."""
    g = torch.Generator().manual_seed(seed)
    exponent = torch.randint(0, 6, (3000,), generator=g)
    loss = 2.0**exponent * (1 + 0.2 * torch.rand(3000, generator=g))
    mass = torch.rand(3000, generator=g, dtype=torch.float64)
    limit = mass[exponent >= group].sum() * (1 - steps * 2**-53)
    mask = F.hard_negative_mask(loss[None], mass[None], limit[None])[0]
    order = loss.argsort(descending=True, stable=True)
    count = int(mask.sum())
    assert mask[order[:count]].all()
    sums = torch.cat((torch.zeros(1), mass[order].cumsum(0), torch.full((1,), torch.inf)))
    assert sums[count] <= limit * (1 + 1e-12) and sums[count + 1] > limit * (1 - 1e-12)


@pytest.mark.parametrize("kept", (0, 1, 2000, 150_000, 500_000, 2**40))
@pytest.mark.parametrize("kind", ("different", "alike", "misleading"))
def test_long_rows(kind, kept):
    """Of which samples tell where to look, or mislead: every one of them is harder than most."""
    g = torch.Generator().manual_seed(0)
    loss = torch.rand(1, 600_001, generator=g)
    if kind == "alike":
        loss = (loss * 4).floor()
    if kind == "misleading":
        loss[:, :: 600_001 // 4096] += 1
    negative, mass = torch.rand(1, 600_001, generator=g) < 0.7, torch.ones(1, 600_001)
    expected = torch.zeros_like(negative)
    order = loss.masked_fill(~negative, -1).argsort(descending=True, stable=True)
    expected[0, order[0, : min(kept, int(negative.sum()))]] = True
    assert torch.equal(F.hard_negative_mask(loss, negative, torch.tensor([kept])), expected)
    masses = F.hard_negative_mask(loss, mass * negative, torch.tensor([kept + 0.5]))
    assert torch.equal(masses, expected)


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
