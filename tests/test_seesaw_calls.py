"""What a call of `seesaw_loss` accepts and refuses."""

import copy
import inspect

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss import losses
from fastloss.testing import assert_matches

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 2, 3, 0])  # 3 is background
COUNT = torch.tensor([100, 7, 0])
LOSS = F.seesaw_loss(X, TARGET, COUNT)


@pytest.mark.parametrize(
    "dtype", (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16), ids=str
)
def test_targets_and_counts_of_any_dtype(dtype):
    assert torch.equal(F.seesaw_loss(X, TARGET.to(dtype), COUNT.to(dtype)), LOSS)
    assert torch.equal(F.seesaw_loss(X, TARGET, COUNT.half()), LOSS)


def test_rows_of_a_wider_tensor_are_read_in_place():
    wide = torch.cat((X, torch.full((5, 2), torch.nan)), 1).requires_grad_()
    loss = F.seesaw_loss(wide[:, :-2], TARGET, COUNT)
    loss.backward()
    x = X.clone().requires_grad_()
    F.seesaw_loss(x, TARGET, COUNT).backward()
    assert torch.equal(loss, LOSS) and torch.equal(wide.grad[:, :-2], x.grad)


def test_mean_and_avg_factor():
    rows = F.seesaw_loss(X, TARGET, COUNT, reduction="none").double()
    assert_matches(LOSS, rows.sum() / 4)
    assert_matches(F.seesaw_loss(X, TARGET, COUNT, avg_factor=9), rows.sum() / 9)
    w = torch.arange(5.0)
    assert_matches(F.seesaw_loss(X, TARGET, COUNT, weight=w), (rows * w).sum() / 4)


@pytest.mark.parametrize("backend", ("auto", "reference"))
@pytest.mark.parametrize("bad", (-1, 4, 2**40))
def test_class_out_of_range(bad, backend):
    target = torch.tensor([0, 3, bad, 1, -7])
    message = rf"target must .* in \[0, 2\]; got {bad} at index 2"
    with fastloss.backend(backend), pytest.raises(IndexError, match=message):
        F.seesaw_loss(X, target, COUNT)
    with fastloss.debug(), pytest.raises(IndexError, match=message):
        F.seesaw_loss(X.requires_grad_(), target, COUNT)


ERRORS = [
    ({"logits": X[0]}, ValueError, r"logits must have shape \(N, C\) .*, got \(3,\)"),
    ({"logits": X[:, :0]}, ValueError, r"at least one class, got \(5, 0\)"),
    ({"logits": X.long()}, TypeError, "logits must be float16.* got torch.int64"),
    ({"target": TARGET[:4]}, ValueError, r"target must have .*\(5,\), got \(4,\)"),
    ({"target": TARGET.float()}, TypeError, "target must hold class indices .* torch.float32"),
    ({"target": TARGET.to("meta")}, ValueError, "target must be on the device of logits, cpu"),
    ({"class_count": [1, 2, 3]}, TypeError, "class_count must be a tensor, got list"),
    ({"class_count": COUNT[:2]}, ValueError, r"class_count must have shape \(3,\), got \(2,\)"),
    ({"class_count": COUNT.to("meta")}, ValueError, "class_count must be on the device of log"),
    ({"class_count": COUNT.float().requires_grad_()}, ValueError, "class_count has no gradient"),
    ({"p": float("nan")}, ValueError, "p must be finite, got nan"),
    ({"q": None}, TypeError, "q must be a number, got NoneType"),
    ({"eps": 0}, ValueError, "eps must be > 0, got 0"),
    ({"weight": torch.ones(3)}, ValueError, r"weight must broadcast .* \(5,\), got \(3,\)"),
    ({"reduction": "avg"}, ValueError, "one of 'none', 'mean', 'sum', got 'avg'"),
    ({"avg_factor": -1.0}, ValueError, "avg_factor must be >= 0, got -1.0"),
]


@pytest.mark.parametrize("changes,error,message", ERRORS, ids=[str(list(c)) for c, *_ in ERRORS])
def test_error(changes, error, message):
    with pytest.raises(error, match=message):
        F.seesaw_loss(**{"logits": X, "target": TARGET, "class_count": COUNT, **changes})


def test_module_is_the_function():
    options = {"p": 0.3, "q": 1.0, "eps": 0.1}
    loss = losses.SeesawLoss(**options)
    w = torch.arange(5.0)
    expected = F.seesaw_loss(X, TARGET, COUNT, weight=w, avg_factor=2.0, **options)
    assert torch.equal(copy.deepcopy(loss)(X, TARGET, COUNT, w, avg_factor=2.0), expected)
    assert "q=1.0" in repr(loss) and not loss.state_dict()
    parameters = inspect.signature(F.seesaw_loss).parameters
    ours = inspect.signature(losses.SeesawLoss).parameters
    assert [*ours] == ["p", "q", "eps", "reduction"]
    assert all(ours[name].default == parameters[name].default for name in ours)
