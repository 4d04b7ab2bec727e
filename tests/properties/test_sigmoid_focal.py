"""Properties of the binary losses with a modulating factor."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, shapes, tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

import fastloss
import fastloss.functional as F
from fastloss.testing import Sample

CLASSES = 4
LOSSES = {
    "focal": (F.sigmoid_focal_loss, {}),
    "focal-unbalanced": (F.sigmoid_focal_loss, {"alpha": -1.0, "gamma": 1.3}),
    "focal-activated": (F.sigmoid_focal_loss, {"activated": True}),
    "quality": (F.quality_focal_loss, {}),
    "quality-activated": (F.quality_focal_loss, {"activated": True}),
    "varifocal": (F.varifocal_loss, {}),
    "gaussian": (F.gaussian_focal_loss, {}),
    "bce": (F.binary_cross_entropy, {}),
}
OF_PROBABILITIES = ("focal-activated", "quality-activated", "gaussian")
OF_LOGITS = tuple(name for name in LOSSES if name not in OF_PROBABILITIES)

logits = rows(st.floats(-30, 30), CLASSES)
each_loss = pytest.mark.parametrize("name", LOSSES)
each_of_logits = pytest.mark.parametrize("name", OF_LOGITS)


def run(name, x, target, **more):
    """Unreduced loss and its gradient to x."""
    function, options = LOSSES[name]
    x = (x.sigmoid() if name in OF_PROBABILITIES else x).detach().requires_grad_()
    loss = function(x, target, **{**options, "reduction": "none", **more})
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def indices(x, seed):
    """A class index, or the background, per row."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, CLASSES + 1, x.shape[:-1], generator=g)


def dense(index, dtype):
    return one_hot(index, CLASSES + 1)[..., :-1].to(dtype)


def bce(x, target):
    return binary_cross_entropy_with_logits(x, target, reduction="none")


@given(logits, seeds)
def test_without_modulation_it_is_torchs_cross_entropy(x, seed):
    target = tensor(seed, *x.shape).sigmoid()
    expected = bce(x, target)
    focal = F.sigmoid_focal_loss(x, target, alpha=-1.0, gamma=0.0)
    quality = F.quality_focal_loss(x, target, beta=0.0)
    torch.testing.assert_close(focal, expected, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(F.binary_cross_entropy(x, target), expected, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(quality, expected.sum(-1), rtol=1e-13, atol=1e-15)


@each_of_logits
@given(x=logits, seed=seeds)
def test_reference_backend_differentiates_the_same_function(name, x, seed):
    target = tensor(seed, *x.shape).sigmoid()
    loss, gradient = run(name, x, target)
    with fastloss.backend("reference"):
        derived_loss, derived = run(name, x, target)
    torch.testing.assert_close(derived_loss, loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(derived, gradient, rtol=1e-9, atol=1e-12)


@each_loss
@given(x=logits, seed=seeds, dtype=dtypes)
def test_class_indices_give_the_bits_of_the_one_hot(name, x, seed, dtype):
    x, index = x.to(dtype), indices(x, seed)
    for a, b in zip(run(name, x, index), run(name, x, dense(index, dtype))):
        assert torch.equal(a, b)


@given(logits, seeds, dtypes)
def test_pair_of_quality_focal_gives_the_bits_of_the_dense_target(x, seed, dtype):
    x, index = x.to(dtype), indices(x, seed)
    score = tensor(seed, *index.shape).sigmoid().to(dtype)
    target = dense(index, dtype) * score[..., None]
    for a, b in zip(run("quality", x, (index, score)), run("quality", x, target)):
        assert torch.equal(a, b)


@each_of_logits
@given(seed=seeds)
def test_falls_with_the_logit_of_the_class_and_rises_with_others(name, seed):
    x = torch.linspace(-30, 30, 301, dtype=torch.float64)[:, None].repeat(1, CLASSES)
    x += tensor(seed, 1, CLASSES)
    index = torch.full((len(x),), seed % (CLASSES + 1))
    target = dense(index, x.dtype)
    gradient = run(name, x, index)[1]
    assert torch.all(gradient * (1 - 2 * target) >= 0)
    if "quality" not in name:
        assert torch.all(run(name, x, index)[0].diff(dim=0) * (1 - 2 * target[1:]) >= -1e-15)


@each_loss
@given(x=logits, seed=seeds)
def test_non_negative(name, x, seed):
    """The 1e-12 inside the Gaussian loss's logarithms may make it negative by as much."""
    slack = 1e-12 if name == "gaussian" else 0
    for target in (indices(x, seed), tensor(seed, *x.shape).sigmoid()):
        assert torch.all(run(name, x, target)[0] >= -slack)


@each_loss
@given(x=logits, seed=seeds, factor=st.sampled_from((0.0, 0.25, 2.0, 8.0)))
def test_linear_in_the_weight(name, x, seed, factor):
    """Powers of two, so that no bit changes."""
    loss, gradient = run(name, x, indices(x, seed))
    weight = torch.full(loss.shape, factor, dtype=x.dtype)
    weighted_loss, weighted_gradient = run(name, x, indices(x, seed), weight=weight)
    assert torch.equal(weighted_loss, factor * loss)
    assert torch.equal(weighted_gradient, factor * gradient)
    mean = run(name, x, indices(x, seed), weight=weight, reduction="mean", avg_factor=4.0)[0]
    torch.testing.assert_close(mean, (factor * loss).sum() / 4, rtol=1e-13, atol=0)


@each_of_logits
@pytest.mark.parametrize("dtype,limit", ((torch.float16, 6e4), (torch.float32, 1e30)), ids=str)
@given(data=st.data(), seed=seeds)
def test_finite_for_any_finite_logit(name, dtype, limit, data, seed):
    some = st.floats(-100, 100) | st.floats(-limit, limit) | st.sampled_from((1e4, -1e4, 0.0))
    x = data.draw(rows(some, CLASSES)).to(dtype)
    function, options = LOSSES[name]
    for target in (indices(x, seed), tensor(seed, *x.shape).sigmoid().to(dtype)):
        loss, gradient = run(name, x.float(), target)
        assert loss.isfinite().all() and gradient.isfinite().all()
        loss, gradient = run(name, x, target)
        fits = loss.isfinite() | (run(name, x.double(), target)[0] > torch.finfo(dtype).max)
        assert fits.all() and gradient.isfinite().all()


@each_loss
@given(x=logits, seed=seeds)
def test_nan_stays_where_it_is(name, x, seed):
    x = torch.cat((x, x))
    x[0, 1] = torch.nan
    loss, gradient = run(name, x.float(), dense(indices(x, seed), torch.float32))
    expected = x.isnan()
    assert torch.equal(loss.isnan(), expected.any(-1) if "quality" in name else expected)
    assert torch.equal(gradient.isnan(), expected)


@each_loss
@given(
    seed=seeds, shape=shapes, dtype=dtypes, layout=layouts, index=st.booleans(),
    reduction=st.sampled_from(("none", "mean", "sum")),
)  # fmt: skip
def test_equals_reference(name, seed, shape, dtype, layout, index, reduction):
    function, options = LOSSES[name]
    x = tensor(seed, *shape, CLASSES) * 2
    target = indices(x, seed) if index else tensor(seed + 1, *x.shape).sigmoid()
    first = "probs" if name == "gaussian" else "logits"
    inputs = {first: x.sigmoid() if name in OF_PROBABILITIES else x, "target": target}
    sample = Sample("random", function, inputs, {**options, "reduction": reduction})
    assert_like_reference(sample, dtype, layout)
