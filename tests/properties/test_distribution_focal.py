"""Properties of the distribution focal loss."""

import hypothesis.strategies as st
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, tensor

import fastloss.functional as F
from fastloss.testing import Sample, assert_matches

logits = rows(st.floats(-20, 20), 6)
distances = st.floats(0, 4.999)


def losses(x, t, **options):
    target = torch.full((len(x),), t, dtype=torch.float64) if isinstance(t, float) else t
    return F.distribution_focal_loss(x, target, **options)


@given(logits, st.integers(0, 4))
def test_on_an_integer_it_is_cross_entropy(x, k):
    expected = -x.log_softmax(1)[:, k]
    assert_matches(losses(x, float(k)), expected, scale=1e-12)


@given(logits, distances)
def test_is_linear_between_integers(x, t):
    k = int(t)
    ends = -x.log_softmax(1)[:, k : k + 2]
    assert_matches(losses(x, t), ends[:, 0] + (t - k) * (ends[:, 1] - ends[:, 0]), scale=20)


@given(distances)
def test_is_least_at_the_distribution_of_mean_t(t):
    """Where p is the shares of the two integers beside t, the gradient is 0."""
    k = int(t)
    shares = torch.zeros(1, 6, dtype=torch.float64)
    shares[0, k], shares[0, k + 1] = k + 1 - t, t - k
    x = shares.clamp(min=1e-300).log().requires_grad_()
    losses(x, t).sum().backward()
    assert torch.all(x.grad.abs() < 1e-14)


@given(logits, distances, st.floats(-1e3, 1e3))
def test_depends_on_differences_alone(x, t, shift):
    assert_matches(losses(x + shift, t), losses(x, t), scale=10 + abs(shift))


@given(logits, distances)
def test_gradients_cancel_and_that_of_the_target_is_a_difference(x, t):
    x, k = x.clone().requires_grad_(), int(t)
    target = torch.full((len(x),), t, dtype=torch.float64, requires_grad=True)
    losses(x, target).sum().backward()
    assert torch.all(x.grad.sum(1).abs() <= 1e-14)
    assert torch.equal(target.grad, (x[:, k] - x[:, k + 1]).detach())


@given(
    seeds, st.tuples(st.integers(1, 140), st.integers(2, 40)), dtypes, layouts,
    st.sampled_from(("none", "mean", "sum")), st.booleans(),
)  # fmt: skip
def test_equals_reference(seed, shape, dtype, layout, reduction, weighted):
    # Eighths are the same in every dtype.
    t = (tensor(seed + 1, shape[0]).abs() * 8).floor() / 8 % (shape[1] - 1)
    weight = tensor(seed + 2, shape[0]).abs() if weighted else None
    inputs = {"logits": tensor(seed, *shape), "target": t, "weight": weight}
    sample = Sample("random", F.distribution_focal_loss, inputs, {"reduction": reduction})
    assert_like_reference(sample, dtype, layout)
