"""Properties of the multi-positive cross entropy."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, tensor

import fastloss.functional as F
from fastloss.testing import Sample, assert_matches

similarities = rows(st.floats(-20, 20), 6)
targets = st.lists(st.sampled_from((0, 1, 2)), min_size=6, max_size=6).map(torch.tensor)


def losses(x, target, **options):
    target = target.expand(x.shape)
    return F.multi_positive_cross_entropy(x, target, reduction="none", **options)


def gradient(x, target, **options):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(losses(x, target, **options).sum(), x)[0]


def over_all_pairs(x, target, others):
    """The sum of the definition, pair by pair, of one row."""
    roles = target.tolist()
    values = [v if t in (0, 1) else 0.0 for v, t in zip(x.tolist(), roles)]
    positives = [v for v, t in zip(values, roles) if t == 1 or (others and t == 2)]
    negatives = [v for v, t in zip(values, roles) if t == 0 or (others and t == 2)]
    gaps = torch.tensor([q - p for p in positives for q in negatives] + [0.0], dtype=x.dtype)
    return gaps.logsumexp(0)


@given(similarities, targets, st.booleans())
def test_equals_the_sum_over_all_pairs(x, target, others):
    expected = torch.stack([over_all_pairs(row, target, others) for row in x])
    assert_matches(losses(x, target, others_in_both=others), expected, scale=1e-12)


@given(similarities, targets, st.floats(-1e3, 1e3))
def test_depends_on_differences_alone(x, target, shift):
    assert_matches(losses(x + shift, target), losses(x, target), scale=10 + abs(shift))


@given(similarities, targets)
def test_gradients_of_a_row_cancel(x, target):
    slopes = gradient(x, target)
    assert torch.all(slopes.sum(1).abs() <= 1e-14)
    assert torch.all(slopes[:, target == 0] >= 0) and torch.all(slopes[:, target == 1] <= 0)
    assert not slopes[:, target == 2].any()


@given(similarities, targets)
def test_negatives_are_positives_of_the_opposite(x, target):
    opposite = torch.tensor([1, 0, 2])[target]
    assert torch.equal(losses(-x, opposite), losses(x, target))
    assert torch.equal(gradient(-x, opposite), -gradient(x, target))


@given(similarities, targets)
def test_only_positives_or_only_negatives(x, target):
    for kind in (0, 1):
        alone = torch.where(target == kind, kind, 2)
        spoilt = x.clone()
        spoilt[0] = torch.nan
        assert not losses(spoilt, alone).any() and not gradient(spoilt, alone).any()


@given(similarities, targets, st.sampled_from((torch.inf, -torch.inf, torch.nan, 1e300)))
def test_others_take_no_part(x, target, value):
    spoilt = torch.where(target == 2, value, x)
    for others in (False, True):
        options = {"others_in_both": others}
        assert torch.equal(losses(spoilt, target, **options), losses(x, target, **options))
        assert torch.equal(gradient(spoilt, target, **options), gradient(x, target, **options))


@given(rows(st.floats(width=32, allow_nan=False, allow_infinity=False), 6), targets)
def test_similarities_of_any_size(x, target):
    """The loss may be beyond float32, its gradient not."""
    value, slopes = losses(x.float(), target), gradient(x.float(), target)
    assert torch.all(value >= 0) and torch.all(slopes.abs() <= 1)
    assert_matches(value, losses(x, target).float().double(), scale=1e-30)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_infinite_similarities(dtype):
    inf = torch.inf
    x = torch.tensor([[inf, 1, inf, 2], [0, -inf, 1, 2], [-inf, 1, 0, 2], [0, inf, 1, 2]])
    target = torch.tensor([0, 1, 0, 1])
    value, slopes = losses(x.to(dtype), target), gradient(x.to(dtype), target)
    assert value[:2].tolist() == [inf, inf] and value[2:].isfinite().all()
    assert slopes[0, ::2].tolist() == [0.5, 0.5] and slopes[1, 1] == -1
    assert slopes.isfinite().all() and abs(slopes[2, 0]) + abs(slopes[3, 1]) < 1e-37
    spoilt = torch.tensor([[torch.nan, 1, 0, 2], [0, 1, 2, torch.nan]], dtype=dtype)
    assert losses(spoilt, target).isnan().all()


@given(
    seeds, st.tuples(st.integers(1, 6), st.integers(1, 40)), dtypes, layouts,
    st.sampled_from(("none", "mean", "sum")), st.booleans(), st.booleans(),
)  # fmt: skip
def test_equals_reference(seed, shape, dtype, layout, reduction, weighted, others):
    x, choice = tensor(seed, 2, *shape)
    weight = tensor(seed + 1, shape[0]).abs() if weighted else None
    inputs = {"logits": x, "target": (choice * 1.2).round().long(), "weight": weight}
    options = {"reduction": reduction, "others_in_both": others}
    sample = Sample("random", F.multi_positive_cross_entropy, inputs, options)
    assert_like_reference(sample, dtype, layout)
