"""Gradients are those of the formula, and a second derivative is refused or right."""

import pytest
import torch

import fastloss
from fastloss.testing import assert_matches, samples
from fastloss.testing.samples.sample import incoming

SMOOTH = samples(tag="smooth")
SMALL = [s for s in samples(tag="small") if s.leaves()]


@pytest.mark.parametrize("sample", SMOOTH, ids=lambda s: s.name)
def test_finite_differences(sample):
    leaves = {name: x.requires_grad_() for name, x in sample.map(torch.clone).leaves().items()}

    def function(*values):
        return sample(sample.bind(dict(zip(leaves, values))))

    assert torch.autograd.gradcheck(function, tuple(leaves.values()), fast_mode=False)


# torch's derivative of a poisoned or saturated value is not the specified one
DERIVABLE = [s for s in samples() if not any(w in s.name for w in ("-nan", "-infinite", "-edges"))]


@pytest.mark.parametrize("sample", DERIVABLE, ids=lambda s: s.name)
def test_reference_backward_is_the_derivative_of_its_forward(sample):
    """torch's own derivative of the reference's forward, ties and clamps included."""
    _, expected = sample.expected()
    with fastloss.backend("reference"):
        _, derived = sample.run()
    for name, gradient in derived.items():
        assert_matches(gradient, expected[name], what=name, scale=max(sample.scale, 1e-4))


def _first_gradient(sample):
    leaves = {name: x.requires_grad_() for name, x in sample.map(torch.clone).leaves().items()}
    value = sample(sample.bind(leaves))
    names = list(leaves)
    (first,) = torch.autograd.grad(value.sum(), leaves[names[0]], create_graph=True)
    return first, leaves[names[0]]


ONE_PER_FUNCTION = list({(s.function, s.options.get("kind")): s for s in reversed(SMALL)}.values())


@pytest.mark.parametrize(
    "sample", [s for s in ONE_PER_FUNCTION if "chosen" not in s.tags], ids=lambda s: s.name
)
def test_double_backward_raises(sample):
    first, leaf = _first_gradient(sample)
    with pytest.raises(RuntimeError, match=r'no second derivative.*backend\("reference"\)'):
        torch.autograd.grad(first.sum(), leaf)


@pytest.mark.parametrize(
    "sample", [s for s in ONE_PER_FUNCTION if "smooth" in s.tags], ids=lambda s: s.name
)
def test_double_backward_of_the_reference_backend(sample):
    leaves = tuple(x.requires_grad_() for x in sample.map(torch.clone).leaves().values())
    names = list(sample.leaves())
    with fastloss.backend("reference"):
        assert torch.autograd.gradgradcheck(
            lambda *values: sample(sample.bind(dict(zip(names, values)))), leaves, atol=1e-4
        )


@pytest.mark.parametrize("sample", ONE_PER_FUNCTION, ids=lambda s: s.name)
def test_backward_twice_and_scaled(sample):
    """The gradient of the forward is handed out once; a second backward computes it again."""
    if "reduction" in sample.options:
        sample = sample.with_options(reduction="mean")
    name, leaf = next(iter(sample.leaves().items()))
    x = leaf.clone().requires_grad_()
    value = sample(sample.bind({name: x})).sum()
    (once,) = torch.autograd.grad(value, x, retain_graph=True)
    (value * 3).backward(retain_graph=True)
    assert_matches(x.grad, 3 * once)
    value.backward()
    assert_matches(x.grad, 4 * once)


@pytest.mark.parametrize("sample", ONE_PER_FUNCTION, ids=lambda s: s.name)
def test_only_the_wanted_gradients(sample):
    """Each leaf alone gives the gradient it gets together with the others."""
    _, expected = sample.run()
    for name, leaf in sample.leaves().items():
        alone = leaf.detach().requires_grad_()
        value = sample(sample.bind({name: alone}))
        (gradient,) = torch.autograd.grad(value, alone, incoming(value))
        assert_matches(gradient, expected[name], what=name)
