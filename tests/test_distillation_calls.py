"""What a call of `distillation_loss` accepts, beside what test_errors.py has."""

import pytest
import torch

import fastloss.functional as F
from fastloss.testing import assert_matches

GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(2, 70, 7, generator=GENERATOR) * 3


def test_teacher_has_no_gradient():
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    F.distillation_loss(x, y).sum().backward()
    assert x.grad.any() and y.grad is None


def test_teacher_in_another_precision():
    loss = F.distillation_loss(X.bfloat16(), Y)
    assert loss.dtype == torch.bfloat16
    assert_matches(loss, F.distillation_loss(X.bfloat16().double(), Y.double()))


def test_classes_that_are_excluded():
    """q = 0 adds nothing, p = 0 where q is not makes the loss infinite."""
    x = torch.zeros(1, 4).requires_grad_()
    y = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    loss = F.distillation_loss(x, y, temperature=1)
    (slope,) = torch.autograd.grad(loss, x)
    assert_matches(loss, torch.tensor([2.0]).double().log() / 4)
    assert_matches(slope, torch.tensor([[-1.0, -1.0, 1.0, 1.0]]).double() / 16)
    assert F.distillation_loss(y, x.detach()).tolist() == [torch.inf]
    assert F.distillation_loss(y, y).tolist() == [0]


def test_wide_rows_are_summed_exactly():
    """A hundred thousand terms, whose sum in float32 would be off by a thousandth."""
    y = torch.zeros(1, 100_000)
    x = torch.where(torch.arange(100_000) % 2 == 0, 1.0, -1.0)[None].requires_grad_()
    loss = F.distillation_loss(x, y, temperature=1)
    expected = F.distillation_loss(x.detach().double(), y.double(), temperature=1)
    assert_matches(loss, expected)
    (slope,) = torch.autograd.grad(loss, x)
    p = x.detach().double().softmax(1)
    assert_matches(slope, (p - 1e-5) / 1e5)


@pytest.mark.parametrize("shape", ((7,), (5, 0), (2, 5, 7)), ids=str)
def test_rows_of_classes_are_wanted(shape):
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"logits must have shape \(N, C\) with C >= 1, got "):
        F.distillation_loss(x, x)
