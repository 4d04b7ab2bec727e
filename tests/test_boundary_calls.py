"""Boundary loss and pooling: errors, labels out of range, empty inputs, threads, the module."""

import copy
import inspect

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss import losses
from fastloss.testing import implementation

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
GOOD = {
    F.boundary_loss: {"logits": X, "target": LABELS},
    F.boundary_pool: {"x": X, "window": 3},
}
ERRORS = {
    F.boundary_loss: [
        ({"logits": None}, TypeError, "logits must be a tensor, got NoneType"),
        ({"logits": X.long()}, TypeError, "logits must be float16.* got torch.int64"),
        ({"logits": X[0, 0]}, ValueError, r"logits must have shape \(N, C, H, W\), got \(4, 5\)"),
        ({"logits": X[:, :, 0]}, ValueError, r"shape \(N, C, H, W\), got \(2, 3, 5\)"),
        ({"logits": X[:, :0]}, ValueError, r"at least one class, got \(2, 0, 4, 5\)"),
        ({"target": 1}, TypeError, "target must be a tensor, got int"),
        ({"target": LABELS.to("meta")}, ValueError, "target must be on the device of logits, cpu"),
        ({"target": LABELS.float()}, TypeError, "integer dtype, got torch.float32"),
        ({"target": LABELS.bool()}, TypeError, "integer dtype, got torch.bool"),
        ({"target": LABELS[:, :3]}, ValueError, r"\(2, 4, 5\), got \(2, 3, 5\)"),
        ({"target": LABELS[:, None]}, ValueError, r"\(2, 4, 5\), got \(2, 1, 4, 5\)"),
        ({"theta0": 4}, ValueError, "theta0 must be odd and >= 1, got 4"),
        ({"theta0": -3}, ValueError, "theta0 must be odd and >= 1, got -3"),
        ({"theta": 0}, ValueError, "theta must be odd and >= 1, got 0"),
        ({"theta": 3.0}, TypeError, "theta must be an integer, got float"),
        ({"theta": True}, TypeError, "theta must be an integer, got bool"),
        ({"reduction": "avg"}, ValueError, "one of 'none', 'mean', 'sum', got 'avg'"),
    ],
    F.boundary_pool: [
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
        ({"x": LABELS}, TypeError, "x must be float16.* got torch.int64"),
        ({"x": X[0]}, ValueError, r"x must have shape \(N, C, H, W\), got \(3, 4, 5\)"),
        (
            {"x": torch.ones(()).expand(1, 1, 2**16, 2**15)},
            ValueError,
            r"x must have at most 2147483647 pixels an image, got \(1, 1, 65536, 32768\)",
        ),
        ({"window": 2}, ValueError, "window must be odd and >= 1, got 2"),
        ({"window": -1}, ValueError, "window must be odd and >= 1, got -1"),
        ({"window": (3, 3)}, TypeError, "window must be an integer, got tuple"),
    ],
}
CASES = [(f, *row) for f, rows in ERRORS.items() for row in rows]


@pytest.mark.parametrize(
    "function,changes,error,message", CASES, ids=[f"{f.__name__}-{[*c]}" for f, c, *_ in CASES]
)
def test_error(function, changes, error, message):
    assert function(**GOOD[function]).isfinite().all()
    with pytest.raises(error, match=message):
        function(**{**GOOD[function], **changes})


@pytest.mark.parametrize("backend", ("auto", "reference"))
@pytest.mark.parametrize("bad", (3, -1, 255, 2**40))
def test_label_out_of_range(bad, backend):
    target = LABELS.clone()
    target[1, 0, 2] = bad
    x = X.clone().requires_grad_()
    with fastloss.backend(backend):
        for call in (X, X.bfloat16(), x):
            with pytest.raises(IndexError, match=rf"\[0, 2\]; got {bad} at index 22"):
                F.boundary_loss(call, target)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", (3, -1, 2**40))
def test_label_out_of_range_of_kernels_that_cannot_raise(bad, triton_kernels):
    """The image of the label is NaN, value and gradient, and the other is not."""
    target = LABELS.clone()
    target[1, 0, 2] = bad
    for language in ("reference",) + (() if torch.cuda.is_available() else ("triton",)):
        x = X.clone().requires_grad_()
        with implementation(language):
            values = F.boundary_loss(x, target, reduction="none")
            (gradient,) = torch.autograd.grad(values[0].sum() + values[1].sum(), x)
        for result in (values, gradient):
            assert result[0].isfinite().all() and result[1].isnan().all(), language


@pytest.mark.parametrize("shape", ((0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)), ids=str)
@pytest.mark.parametrize("reduction", ("none", "mean", "sum"))
def test_empty(reduction, shape):
    """0, connected to the graph."""
    x = torch.zeros(shape, requires_grad=True)
    value = F.boundary_loss(x, torch.zeros(shape[:1] + shape[2:]).long(), reduction=reduction)
    assert value.shape == (shape[:2] if reduction == "none" else ()) and not value.any()
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.shape == x.shape and not gradient.any()


@pytest.mark.parametrize("shape", ((0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 4, 0)), ids=str)
def test_empty_pool(shape):
    x = torch.zeros(shape, requires_grad=True)
    value = F.boundary_pool(x, 3)
    assert value.shape == shape
    assert torch.autograd.grad(value.sum(), x)[0].shape == shape


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int8, torch.int16, torch.int32), ids=str)
def test_dtypes_of_the_target(dtype):
    assert torch.equal(F.boundary_loss(X, LABELS.to(dtype)), F.boundary_loss(X, LABELS))


def test_channels_last_gradient_has_the_layout_of_the_logits():
    x = X.contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(F.boundary_loss(x, LABELS), x)
    assert gradient.stride() == x.stride()
    plain = X.clone().requires_grad_()
    assert torch.equal(gradient, torch.autograd.grad(F.boundary_loss(plain, LABELS), plain)[0])


@pytest.mark.parametrize("theta0", (1, 3))
def test_nan_stays_in_its_image(theta0):
    """Also where the truth has no boundary, and so the prediction would not matter."""
    for target in (LABELS, torch.zeros_like(LABELS)):
        x = X.clone()
        x[1, 2, 3, 3] = torch.nan
        x.requires_grad_()
        values = F.boundary_loss(x, target, theta0=theta0, reduction="none")
        (gradient,) = torch.autograd.grad(values.sum(), x)
        for result in (values, gradient):
            assert result[0].isfinite().all() and result[1].isnan().all()


def test_nan_in_the_last_pixel_of_a_large_image():
    """Whose truth has no boundary."""
    x = torch.zeros(1, 3, 101, 203)
    x[0, 1, -1, -1] = torch.nan
    assert F.boundary_loss(x, torch.zeros(1, 101, 203).long()).isnan()


@pytest.mark.parametrize("incoming", (torch.nan, torch.inf))
def test_what_comes_in_is_not_lost(incoming):
    """For a class whose truth has no boundary: gradient scalers look for it."""
    x = X.clone().requires_grad_()
    loss = F.boundary_loss(x, torch.zeros_like(LABELS), reduction="none")
    (gradient,) = torch.autograd.grad(loss, x, torch.full_like(loss, incoming))
    assert gradient.isnan().all()


def test_one_pixel_with_any_strides(triton_kernels):
    for shape, strides in (((1, 1, 1, 1), (0, 0, 0, 0)), ((1, 1, 1, 5), (0, 0, 0, 1))):
        x = torch.arange(5.0).as_strided(shape, strides).requires_grad_()
        with implementation("triton"):
            value = F.boundary_pool(x, 3)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        assert torch.equal(value, F.boundary_pool(x, 3)) and gradient.sum() == x.numel()


def test_triton_in_groups_and_chunks(triton_kernels, monkeypatch):
    from fastloss._triton import boundary_loss as kernels

    monkeypatch.setattr(kernels, "AT_ONCE", 70)
    monkeypatch.setattr(kernels, "CHUNK", 1024)
    x = torch.randn(2, 2, 33, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    target = torch.randint(0, 2, (2, 33, 40), generator=torch.Generator().manual_seed(3))
    results = []
    for language in ("triton", "reference"):
        leaf = x.clone().requires_grad_()
        with implementation(language):
            loss = F.boundary_loss(leaf, target)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-13)


def test_same_bits_for_any_number_of_threads():
    """Images larger than a chunk, and more planes than threads."""
    if fastloss.backends()["boundary_loss"]["cpu"] != "C++":
        pytest.skip("there are no C++ kernels here")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 101, 203, generator=g).requires_grad_()
    target = torch.randint(0, 5, (3, 11, 21), generator=g)
    target = target.repeat_interleave(10, 1).repeat_interleave(10, 2)[:, :101, :203]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            value, maxima = F.boundary_loss(x, target), F.boundary_pool(x, 9)
            results.append(
                (
                    value, maxima, F.boundary_loss(x.detach(), target),
                    *torch.autograd.grad(value, x), *torch.autograd.grad(maxima.sum(), x),
                )
            )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))
    assert torch.equal(results[0][0], results[0][2])


def test_module():
    """Same names and defaults as the function, and every option counts."""
    parameters = inspect.signature(F.boundary_loss).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    module = inspect.signature(losses.BoundaryLoss).parameters.values()
    assert {p.name: p.default for p in module} == defaults
    chosen = {"theta0": 5, "theta": 1, "reduction": "none"}
    loss, changed = losses.BoundaryLoss(**chosen), losses.BoundaryLoss()
    for name, value in chosen.items():
        setattr(changed, name, value)
    expected = F.boundary_loss(X, LABELS, **chosen)
    for same in (loss, changed, copy.deepcopy(loss)):
        assert torch.equal(same(X, LABELS), expected) and repr(same) == repr(loss)
    for name, value in defaults.items():
        other = losses.BoundaryLoss(**{**chosen, name: value})(X, LABELS)
        assert other.shape != expected.shape or not torch.equal(other, expected), name
