"""What a call of `distribution_focal_loss` accepts, beside what test_errors.py has."""

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss.testing import assert_matches, implementation

X = torch.randn(70, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(70) % 16 / 4  # in [0, 4)
OUTSIDE = (4.0, 4.5, -0.25, torch.nan, torch.inf, -torch.inf, 1e30)


def test_target_in_another_precision_is_not_rounded():
    """k is 3, though it is 4 in the precision of the logits."""
    target = torch.tensor(4.0, dtype=torch.float64).nextafter(torch.zeros(())).expand(70)
    loss = F.distribution_focal_loss(X, target)
    assert loss.dtype == torch.float64
    assert_matches(loss, -X.double().log_softmax(1)[:, 4])


@pytest.mark.parametrize("bad", OUTSIDE)
@pytest.mark.parametrize("backend", ("auto", "reference"))
@pytest.mark.parametrize("reduction", ("none", "mean"))
def test_target_outside(bad, backend, reduction):
    target = TARGET.clone()
    target[66] = target[69] = bad
    text = rf"target must be in \[0, 4\); got {bad:g} at index 66".replace("+", r"\+")
    for needs_gradient in (False, True):
        x = X.clone().requires_grad_(needs_gradient)
        with fastloss.backend(backend), pytest.raises(IndexError, match=text):
            F.distribution_focal_loss(x, target, reduction=reduction)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter
@pytest.mark.parametrize("language", ("triton", "reference"))
@pytest.mark.parametrize("bad", OUTSIDE)
def test_target_outside_makes_its_row_nan(bad, language, triton_kernels):
    """Where no values are read; nothing is read out of bounds."""
    target = TARGET.clone().index_fill_(0, torch.tensor(3), bad)
    x, target = X.clone().requires_grad_(), target.requires_grad_()
    with implementation(language):
        loss = F.distribution_focal_loss(x, target)
        gradients = torch.autograd.grad(loss.sum(), (x, target))
    others = torch.arange(70) != 3
    good = F.distribution_focal_loss(X, TARGET)
    assert loss[3].isnan() and torch.allclose(loss[others], good[others])
    for gradient in gradients:
        assert gradient[3].isnan().all() and gradient[others].isfinite().all()


def test_a_part_of_wider_rows_is_read_in_place():
    wide = torch.cat((X, torch.full_like(X, torch.nan)), 1).requires_grad_()
    x = X.clone().requires_grad_()
    loss = F.distribution_focal_loss(wide[:, :5], TARGET)
    loss.sum().backward()
    F.distribution_focal_loss(x, TARGET).sum().backward()
    assert torch.equal(loss, F.distribution_focal_loss(X, TARGET))
    assert torch.equal(wide.grad[:, :5], x.grad) and not wide.grad[:, 5:].any()


@pytest.mark.parametrize("shape", ((5,), (70, 1), (2, 70, 5)), ids=str)
def test_rows_of_at_least_two_integers_are_wanted(shape):
    with pytest.raises(ValueError, match=r"logits must have shape \(N, n \+ 1\) with n >= 1, got"):
        F.distribution_focal_loss(torch.zeros(shape), TARGET)
