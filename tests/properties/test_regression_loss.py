"""Properties of the element-wise regression losses."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, shapes, tensor

import fastloss.functional as F
from fastloss.testing import Sample

KINDS = ("l1", "smooth_l1", "mse", "balanced_l1")
values = rows(st.floats(-1e6, 1e6), 4)
each_kind = pytest.mark.parametrize("kind", KINDS)


def loss(pred, target, kind, **options):
    return F.regression_loss(pred, target, kind=kind, reduction="none", **options)


def gradients(pred, target, kind):
    pred, target = pred.clone().requires_grad_(), target.clone().requires_grad_()
    return torch.autograd.grad(loss(pred, target, kind).sum(), (pred, target))


@given(values, st.floats(1e-12, 1e3))
def test_smooth_l1_is_l1_up_to_half_beta(x, beta):
    l1 = loss(x, torch.zeros_like(x), "l1")
    smooth = loss(x, torch.zeros_like(x), "smooth_l1", beta=beta)
    assert torch.all((0 <= smooth) & (smooth <= l1)) and torch.all(
        l1 - smooth <= beta / 2 + 1e-15 * l1
    )


@given(values, st.floats(0.05, 2), st.floats(0.05, 2))
def test_balanced_l1_is_steeper_than_smooth_l1_and_continuous(x, alpha, gamma):
    """With beta = 1 the gradient grows with |d| up to gamma at 1, faster than linearly."""
    x = x / 1e6
    options = {"kind": "balanced_l1", "alpha": alpha, "gamma": gamma, "reduction": "none"}
    x.requires_grad_()
    value = F.regression_loss(x, torch.zeros_like(x), **options)
    (slope,) = torch.autograd.grad(value.sum(), x)
    d = x.detach().abs()
    assert torch.all(slope.abs() >= gamma * d.clamp(max=1) * (1 - 1e-9))
    assert torch.all(slope.abs() <= gamma * (1 + 1e-12))
    sides = torch.tensor([1 - 1e-9, 1.0], dtype=torch.float64)
    below, above = F.regression_loss(sides, torch.zeros(2, dtype=torch.float64), **options)
    assert abs(above - below) < 1e-8 * (1 + gamma)


@each_kind
@given(x=values, middle=st.floats(0, 1))
def test_convex_non_negative_and_zero_at_the_target(kind, x, middle):
    target = x.flip(0)
    a, b = loss(x, target, kind), loss(-x, target, kind)
    between = loss(middle * x - (1 - middle) * x, target, kind)
    # 1e-6 is what rounding a mixture of values of up to 1e6 may change in a small square.
    assert torch.all(between <= (middle * a + (1 - middle) * b) * (1 + 1e-12) + 1e-6)
    # (b d + 1) ln(b d + 1) - b d of balanced L1 cancels for the smallest d.
    assert torch.all(a >= -1e-16) and not loss(x, x, kind).any()


@each_kind
@given(x=values)
def test_symmetric_with_opposite_gradients(kind, x):
    target = x.flip(1)
    assert torch.equal(loss(x, target, kind), loss(target, x, kind))
    to_pred, to_target = gradients(x, target, kind)
    assert torch.equal(to_pred, -to_target)
    assert torch.equal(gradients(target, x, kind)[0], to_target)


@each_kind
@given(x=rows(st.floats(width=32, allow_nan=False, allow_infinity=False), 3))
def test_finite_for_finite_input(kind, x):
    """As far as the value itself fits float32."""
    limit = 1e19 if kind == "mse" else 1e38
    x = x.clamp(-limit, limit).float()
    assert loss(x, -x / 2, kind).isfinite().all()
    assert all(g.isfinite().all() for g in gradients(x, -x / 2, kind))


@each_kind
@given(seeds, shapes, dtypes, layouts, st.sampled_from(("none", "mean", "sum")), st.booleans())
def test_equals_reference(kind, seed, shape, dtype, layout, reduction, weighted):
    x, target, weight = tensor(seed, 3, *shape)
    inputs = {"pred": x, "target": target, "weight": weight.abs() if weighted else None}
    sample = Sample("random", F.regression_loss, inputs, {"kind": kind, "reduction": reduction})
    assert_like_reference(sample, dtype, layout)
