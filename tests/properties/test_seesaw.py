"""Properties of the seesaw loss."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, tensor

import fastloss.functional as F
from fastloss.testing import Sample, assert_matches

logits = rows(st.floats(-20, 20), 4)
classes = st.integers(0, 3)
counts = st.lists(st.integers(0, 1000), min_size=4, max_size=4).map(torch.tensor)
ONES = torch.ones(4)


def losses(x, own, count, **options):
    target = torch.full((len(x),), own)
    return F.seesaw_loss(x, target, count, reduction="none", **options)


def gradient(x, own, count, **options):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(losses(x, own, count, **options).sum(), x)[0]


def by_definition(x, own, count, p, q, eps):
    """Of one row, with the two factors of every class."""
    s, n = x.softmax(0).tolist(), [max(1, int(k)) for k in count]
    total = 0.0
    for j, v in enumerate(x.tolist()):
        mitigation = min(1, n[j] / n[own]) ** p
        compensation = max(1, s[j] / max(s[own], eps)) ** q
        total += math.exp(v) * (1 if j == own else mitigation * compensation)
    return math.log(total) - x[own].item()


@given(logits, classes, counts, st.sampled_from((0.8, 0.0)), st.sampled_from((2.0, 0.0, 0.5)))
def test_equals_the_definition(x, own, count, p, q):
    expected = [by_definition(row, own, count, p, q, 0.01) for row in x]
    actual = losses(x, own, count, p=p, q=q, eps=0.01)
    assert_matches(actual, torch.tensor(expected, dtype=torch.float64), scale=100)


@given(logits, classes, counts)
def test_without_factors_it_is_cross_entropy(x, own, count):
    target = torch.full((len(x),), own)
    expected = F.cross_entropy(x, target, reduction="none")
    for off in (0.0, -1.0):
        assert_matches(losses(x, own, count, p=off, q=off), expected, scale=20)
    # Nor do they act where all classes are alike.
    alike = torch.full((len(x),), math.log(4), dtype=torch.float64)
    assert_matches(losses(x * 0, own, ONES), alike)


@given(logits, classes, counts, st.floats(-1e3, 1e3), st.integers(2, 9))
def test_depends_on_differences_and_ratios_alone(x, own, count, shift, times):
    count, value = count + 1, losses(x, own, count + 1)
    assert_matches(losses(x + shift, own, count), value, scale=100 + abs(shift))
    assert_matches(losses(x, own, count * times), value, scale=100)


@given(logits, classes, counts)
def test_gradients_of_a_row_cancel(x, own, count):
    slopes = gradient(x, own, count)
    others = torch.arange(4) != own
    assert torch.all(slopes.sum(1).abs() <= 1e-15)
    assert torch.all(slopes[:, others] >= 0) and torch.all(slopes[:, own] <= 0)


@given(logits, st.sampled_from((torch.nan, torch.inf, -torch.inf, 0.0)))
def test_background_takes_no_part(x, value):
    spoilt = torch.cat((x, torch.full((2, 4), value))).requires_grad_()
    target = torch.tensor([1] * len(x) + [4] * 2)
    loss = F.seesaw_loss(spoilt, target, ONES)
    assert_matches(loss, losses(x, 1, ONES).mean())
    (slopes,) = torch.autograd.grad(loss, spoilt)
    assert not slopes[len(x) :].any() and slopes[: len(x)].any()
    assert not F.seesaw_loss(spoilt, torch.full_like(target, 4), ONES)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_infinite_and_huge_logits(dtype):
    inf = torch.inf
    x = torch.tensor([[0, 1, -inf, 2], [-inf, 1, 0, 2], [0, 3e38, -3e38, 2]], dtype=dtype)
    value, slopes = losses(x, 0, ONES), gradient(x, 0, ONES)
    assert_matches(value[:1], losses(x[:1, [0, 1, 3]].double(), 0, ONES[:3]))
    assert value[1] == inf and slopes[:, 0].tolist() == [slopes[0, 0].item(), -1, -1]
    assert slopes.isfinite().all() and slopes[0, 2] < 1e-37
    for spoilt in ([inf, 0], [0, inf], [torch.nan, 0], [0, torch.nan], [-inf, -inf]):
        row = torch.tensor([spoilt], dtype=dtype)
        for q in (0.0, 2.0):
            assert (
                losses(row, 0, ONES[:2], q=q).isnan() and gradient(row, 0, ONES[:2]).isnan().all()
            )


def test_a_small_loss_keeps_its_digits():
    x = torch.tensor([[30.0, 0.0, -1.0, 2.0]])
    rest = torch.tensor([0.0, -1.0, 2.0]).double().exp().sum() * math.exp(-30)
    assert_matches(losses(x, 0, ONES), torch.log1p(rest)[None])
    assert_matches(gradient(x, 0, ONES)[0, 0], -rest / (1 + rest))


@given(
    seeds, st.tuples(st.integers(1, 6), st.integers(1, 40)), dtypes, layouts,
    st.sampled_from(("none", "mean", "sum")), st.booleans(), st.sampled_from((0.0, 2.0)),
)  # fmt: skip
def test_equals_reference(seed, shape, dtype, layout, reduction, weighted, q):
    n, c = shape
    inputs = {
        "logits": tensor(seed, n, c) * 3,
        "target": (tensor(seed + 1, n).abs() * c).long().clamp(max=c),
        "class_count": tensor(seed + 2, c).abs() * 30,
        "weight": tensor(seed + 3, n).abs() if weighted else None,
    }
    options = {"reduction": reduction, "q": q}
    sample = Sample("random", F.seesaw_loss, inputs, options, constant=("class_count",))
    assert_like_reference(sample, dtype, layout)
