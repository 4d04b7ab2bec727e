"""Properties of several regression losses from one read."""

import hypothesis.strategies as st
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, seeds, shapes, tensor

import fastloss.functional as F
from fastloss.reference.regression_terms import KINDS
from fastloss.testing import Sample

terms = st.lists(
    st.tuples(st.sampled_from(KINDS), st.floats(1e-3, 1e3), st.sampled_from(("mean", "sum"))),
    min_size=1,
    max_size=6,
)


@given(seeds, shapes, terms)
def test_each_is_the_loss_alone(seed, shape, terms):
    pred, target = tensor(seed, 2, *shape)
    kinds, betas, reductions = zip(*terms)
    together = F.regression_terms(pred, target, kinds=kinds, beta=betas, reduction=reductions)
    for value, (kind, beta, how) in zip(together, terms, strict=True):
        alone = F.regression_loss(pred, target, kind=kind, beta=beta, reduction=how)
        torch.testing.assert_close(value, alone, rtol=1e-14, atol=0)


@given(seeds, shapes, terms, st.data())
def test_gradient_is_the_weighted_sum(seed, shape, terms, data):
    pred, target = (x.requires_grad_() for x in tensor(seed, 2, *shape).unbind())
    kinds, betas, reductions = zip(*terms)
    weights = data.draw(st.lists(st.floats(-2, 2), min_size=len(terms), max_size=len(terms)))
    together = F.regression_terms(pred, target, kinds=kinds, beta=betas, reduction=reductions)
    alone = sum(
        weight * F.regression_loss(pred, target, kind=kind, beta=beta, reduction=how)
        for weight, (kind, beta, how) in zip(weights, terms)
    )
    actual = torch.autograd.grad(together @ together.new_tensor(weights), (pred, target))
    expected = torch.autograd.grad(alone, (pred, target))
    scale = float(sum(map(abs, weights))) * (1 + float((pred - target).detach().abs().amax()))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-13, atol=1e-14 * scale)
    assert torch.equal(actual[0], -actual[1])


@given(seeds, shapes, terms, dtypes, layouts)
def test_equals_reference(seed, shape, terms, dtype, layout):
    pred, target = tensor(seed, 2, *shape)
    kinds, betas, reductions = zip(*terms)
    options = {"kinds": kinds, "beta": betas, "reduction": reductions}
    sample = Sample("random", F.regression_terms, {"pred": pred, "target": target}, options)
    assert_like_reference(sample, dtype, layout)
