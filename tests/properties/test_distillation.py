"""Properties of the distillation loss."""

import hypothesis.strategies as st
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, tensor

import fastloss.functional as F
from fastloss.testing import Sample, assert_matches

logits = rows(st.floats(-20, 20), 6)
temperatures = st.sampled_from((0.5, 1.0, 4.0, 10.0))


def of(x, y, temperature=10.0):
    return F.distillation_loss(x, y, temperature=temperature)


@given(logits, logits, temperatures)
def test_equals_the_divergence(x, y, temperature):
    y = y[:1].expand_as(x)
    p, q = ((z / temperature).log_softmax(1) for z in (x, y))
    expected = (q.exp() * (q - p)).sum(1) * temperature**2 / 6
    assert_matches(of(x, y, temperature), expected, scale=temperature**2)


@given(logits, logits, temperatures)
def test_is_never_negative_and_0_of_a_row_with_itself(x, y, temperature):
    for dtype in (torch.float32, torch.float64):
        one, other = x.to(dtype), y[:1].expand_as(x).to(dtype)
        assert torch.all(of(one, other, temperature) >= 0)
        assert not of(one, one, temperature).any()


@given(logits, st.sampled_from((1e-2, 1e-1)), seeds)
def test_keeps_its_accuracy_where_both_are_alike(x, distance, seed):
    x = (x / 4).float()
    y = x + distance * tensor(seed, *x.shape).float()
    expected = of(x.double(), y.double())
    assert torch.all((of(x, y) - expected).abs() <= 1e-3 * expected + 1e-9)


@given(logits, logits, temperatures)
def test_gradients_cancel(x, y, temperature):
    x = x.clone().requires_grad_()
    of(x, y[:1].expand_as(x), temperature).sum().backward()
    assert torch.all(x.grad.sum(1).abs() <= 1e-14 * temperature)


@given(logits, logits)
def test_excluded_classes_count_in_the_mean_alone(x, y):
    y, x = y[:1].expand_as(x), x.clone()
    x[:, 4:] = -torch.inf
    y = y.clone()
    y[:, 4:] = -torch.inf
    assert_matches(of(x, y), of(x[:, :4], y[:, :4]) * 4 / 6, scale=1.0)


@given(
    seeds, st.tuples(st.integers(1, 140), st.integers(1, 40)), dtypes, layouts,
    st.sampled_from(("none", "mean", "sum")), st.booleans(), temperatures,
)  # fmt: skip
def test_equals_reference(seed, shape, dtype, layout, reduction, weighted, temperature):
    x, y = tensor(seed, 2, *shape)
    weight = tensor(seed + 2, shape[0]).abs() if weighted else None
    inputs = {"logits": x, "teacher_logits": y, "weight": weight}
    options = {"reduction": reduction, "temperature": temperature}
    constant, scale = ("teacher_logits",), max(temperature / shape[1], 0.1)
    sample = Sample("random", F.distillation_loss, inputs, options, constant, scale=scale)
    assert_like_reference(sample, dtype, layout)
