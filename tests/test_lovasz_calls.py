"""Lovász losses: errors, labels out of range, empty inputs, modules."""

import contextlib
import inspect
import itertools

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss import losses
from fastloss.testing import assert_matches, implementation

X = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
HARD = torch.randint(0, 2, (2, 4, 5), generator=torch.Generator().manual_seed(2))
GOOD = {
    F.lovasz_softmax: {"logits": X, "target": LABELS},
    F.lovasz_hinge: {"logits": X[:, 0], "target": HARD},
}
COMMON = [
    ({"logits": None}, TypeError, "logits must be a tensor, got NoneType"),
    ({"logits": X.long()}, TypeError, "logits must be float16.* got torch.int64"),
    ({"target": 1}, TypeError, "target must be a tensor, got int"),
    ({"target": LABELS.to("meta")}, ValueError, "target must be on the device of logits, cpu"),
    ({"target": LABELS.cfloat()}, TypeError, "target must be real"),
    ({"target": LABELS[:, :3]}, ValueError, r"got .*\(2, 3, 5\)"),
    ({"logits": torch.ones(())}, ValueError, r"got \(\)"),
    ({"per_image": 1}, TypeError, "per_image must be True or False, got int"),
    ({"ignore_index": 255.0}, TypeError, "ignore_index must be an integer or None, got float"),
    ({"ignore_index": True}, TypeError, "ignore_index must be an integer or None, got bool"),
    ({"method": "sort"}, ValueError, "method must be one of 'exact', 'histogram', got 'sort'"),
    ({"bins": 1.0}, TypeError, "bins must be an integer, got float"),
    ({"bins": True}, TypeError, "bins must be an integer, got bool"),
    ({"bins": 0}, ValueError, r"bins must be in \[1, 65536\], got 0"),
    ({"bins": 65537}, ValueError, r"bins must be in \[1, 65536\], got 65537"),
    ({"reduction": "avg"}, ValueError, "one of 'none', 'mean', 'sum', got 'avg'"),
]
SPECIAL = {
    F.lovasz_softmax: [
        ({"logits": X[:, 0, 0, 0]}, ValueError, r"\(N, C, \*\) .*, got \(2,\)"),
        ({"logits": X[:, :0]}, ValueError, r"at least one class, got \(2, 0, 4, 5\)"),
        ({"target": LABELS.float()}, TypeError, "integer dtype, got torch.float32"),
        ({"target": LABELS.bool()}, TypeError, "integer dtype, got torch.bool"),
        ({"target": LABELS[:, None]}, ValueError, r"\(2, 4, 5\), got \(2, 1, 4, 5\)"),
        ({"classes": "some"}, ValueError, "classes must be one of 'present', 'all', got 'some'"),
        ({"classes": None}, TypeError, 'classes must be "present", "all" or class .* NoneType'),
        ({"classes": [0, 3]}, ValueError, r"classes must be class indices in \[0, 2\], got 3"),
        ({"classes": [-1]}, ValueError, r"in \[0, 2\], got -1"),
        ({"classes": [1.0]}, ValueError, r"in \[0, 2\], got 1.0"),
        ({"classes": []}, ValueError, "classes must not be empty"),
        ({"from_logits": None}, TypeError, "from_logits must be True or False, got NoneType"),
        ({"strict": 0}, TypeError, "strict must be True or False, got int"),
    ],
    F.lovasz_hinge: [
        ({"logits": X}, ValueError, r"target likewise, got \(2, 3, 4, 5\) and \(2, 4, 5\)"),
        ({"target": HARD[:, :1]}, ValueError, r"got \(2, 4, 5\) and \(2, 1, 5\)"),
        (
            {"target": HARD.float().requires_grad_(), "method": "histogram"},
            ValueError,
            'target has no gradient with method "histogram": pass target.detach',
        ),
    ],
}
CASES = [(f, *row) for f, rows in SPECIAL.items() for row in (*COMMON, *rows)]


@pytest.mark.parametrize(
    "function,changes,error,message", CASES, ids=[f"{f.__name__}-{[*c]}" for f, c, *_ in CASES]
)
def test_error(function, changes, error, message):
    assert function(**GOOD[function]).isfinite()
    with pytest.raises(error, match=message):
        function(**{**GOOD[function], **changes})


METHODS = pytest.mark.parametrize("method", ("exact", "histogram"))


@METHODS
@pytest.mark.parametrize("backend", ("auto", "reference"))
@pytest.mark.parametrize("bad", (3, -1, 255, 2**40))
def test_label_out_of_range(bad, backend, method):
    target = LABELS.clone()
    target[1, 0, 2] = bad
    options = {"method": method, "bins": 16}
    with fastloss.backend(backend):
        with pytest.raises(IndexError, match=rf"\[0, 2\]; got {bad} at index 22"):
            F.lovasz_softmax(X, target, **options)
        assert F.lovasz_softmax(X, target, ignore_index=bad, **options).isfinite()
        assert F.lovasz_softmax(X, target, strict=False, **options).isfinite()


@METHODS
@pytest.mark.parametrize("language", ("reference", "triton"))
def test_label_out_of_range_where_nothing_can_raise(method, language, triton_kernels):
    target = LABELS.clone()
    target[1], target[1, 0, 2] = 255, 3
    options = {"method": method, "bins": 16, "ignore_index": 255}
    with implementation(language):
        values = F.lovasz_softmax(X, target, per_image=True, reduction="none", **options)
    assert values[0].isfinite() and values[1].isnan()


@METHODS
@pytest.mark.parametrize("shape", ((0, 3, 4), (2, 3, 0), (0, 3)), ids=str)
@pytest.mark.parametrize("reduction", ("none", "mean", "sum"))
@pytest.mark.parametrize("per_image", (False, True))
def test_empty(per_image, reduction, shape, method):
    """0, connected to the graph."""
    x = torch.zeros(shape, requires_grad=True)
    options = {"per_image": per_image, "reduction": reduction, "method": method}
    for value in (
        F.lovasz_softmax(x, torch.zeros(shape[:1] + shape[2:]).long(), **options),
        F.lovasz_hinge(x, torch.zeros(shape), **options),
    ):
        count = shape[0] if per_image else 1
        assert value.shape == ((count,) if reduction == "none" else ()) and not value.any()
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert gradient.shape == x.shape and not gradient.any()


def test_shapes_of_hinge():
    x = X[:, 0]
    expected = F.lovasz_hinge(x, HARD)
    pairs = [(a, b) for a in (x, x[:, None]) for b in (HARD, HARD[:, None])]
    assert all(F.lovasz_hinge(a, b) == expected for a, b in pairs)
    assert F.lovasz_hinge(x[:, 0, 0], HARD[:, 0, 0]).isfinite()
    one_row = x[:, :1], HARD[:, None, :1]  # its height is no channel
    assert F.lovasz_hinge(*one_row) == F.lovasz_hinge(x[:, 0], HARD[:, 0])


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int16, torch.bool, torch.float16), ids=str)
def test_dtypes_of_the_target(dtype):
    """A small integer type that does not hold ignore_index, too."""
    value = F.lovasz_hinge(X[:, 0], HARD.to(dtype), ignore_index=-255)
    assert value == F.lovasz_hinge(X[:, 0], HARD)
    if dtype in (torch.uint8, torch.int16):
        assert F.lovasz_softmax(X, LABELS.to(dtype), ignore_index=-255) == F.lovasz_softmax(
            X, LABELS
        )


@METHODS
def test_channels_last_gradient_has_the_layout_of_the_logits(method):
    x = X.contiguous(memory_format=torch.channels_last).requires_grad_()
    loss = F.lovasz_softmax(x, LABELS, per_image=True, method=method)
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient.stride() == x.stride()


def gradient_of(function, x, target, **options):
    leaf = x.detach().requires_grad_()
    value = function(leaf, target, **options)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def same_as_reference(function, x, target, **options):
    results = gradient_of(function, x, target, **options)
    with implementation("reference"):
        expected = gradient_of(function, x, target, **options)
    for result, exact in zip(results, expected):
        torch.testing.assert_close(result, exact, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("per_image", (False, True))
@pytest.mark.parametrize("dtype", (torch.uint8, torch.int8, torch.int64), ids=str)
def test_hinge_with_other_targets_than_0_and_1(dtype, per_image):
    """A mask of 0 and 255, for one; they mean what they do as floating-point numbers."""
    x, target = X[:, 0].double(), torch.where(HARD == 1, 100, 2).to(dtype)
    target[0, 0, 0] = 1
    for options in ({}, {"ignore_index": 2}):
        same_as_reference(F.lovasz_hinge, x, target, per_image=per_image, **options)
        given = gradient_of(F.lovasz_hinge, x, target, per_image=per_image, **options)
        soft = gradient_of(F.lovasz_hinge, x, target.double(), per_image=per_image, **options)
        torch.testing.assert_close(given, soft, rtol=1e-11, atol=1e-13)


@METHODS
@pytest.mark.parametrize("name", ("uint16", "uint32", "uint64"))
def test_hinge_with_unsigned_targets(name, method):
    target = HARD.to(getattr(torch, name))
    expected = F.lovasz_hinge(X[:, 0], HARD, method=method)
    assert F.lovasz_hinge(X[:, 0], target, method=method) == expected


def test_hinge_with_targets_of_eight_bits():
    with pytest.raises(TypeError, match="target must be float16.* got torch.float8_e5m2"):
        F.lovasz_hinge(X[:, 0], HARD.to(torch.float8_e5m2))


@METHODS
@pytest.mark.parametrize("language", (None, "reference", "triton"))
def test_a_target_that_is_no_number(method, language, triton_kernels):
    target = HARD.double()
    target[0, 1, 1] = torch.nan
    with implementation(language) if language else contextlib.nullcontext():
        values = F.lovasz_hinge(
            X[:, 0].double(), target, per_image=True, reduction="none", method=method
        )
    assert values[0].isnan() and values[1].isfinite()


@METHODS
@pytest.mark.parametrize("per_image", (False, True))
def test_an_absent_class_has_the_slope_of_its_largest_error(method, per_image):
    """It lies in the second image."""
    x, target = torch.zeros(2, 3, 4, dtype=torch.float64), torch.zeros(2, 4).long()
    x[1, 2, 1], x[1, 1, 3] = 2.0, 3.0
    options = {"classes": "all", "per_image": per_image, "method": method}
    same_as_reference(F.lovasz_softmax, x, target, **options)


@METHODS
@pytest.mark.parametrize("per_image", (False, True))
def test_same_bits_for_any_number_of_threads(method, per_image):
    g = torch.Generator().manual_seed(6)
    x = torch.randn(3, 5, 20_021, generator=g)
    target = torch.randint(0, 5, (3, 20_021), generator=g)
    soft = torch.rand(3, 20_021, generator=g)
    options = {"per_image": per_image, "reduction": "none", "method": method}
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            found = gradient_of(F.lovasz_softmax, x, target, **options)
            for labels in (target % 2, soft):
                found += gradient_of(F.lovasz_hinge, x[:, 0], labels, **options)
            results.append(found)
    finally:
        torch.set_num_threads(threads)
    if fastloss.backends()["lovasz"]["cpu"] == "C++":
        for result in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], result))


def test_hinge_histogram_at_the_ends_of_float32():
    x, target = torch.tensor([[3e38, -2.5e38]]), torch.tensor([[0, 1]])
    exact = F.lovasz_hinge(x, target)
    for bins in (1, 64, 4096):
        value = F.lovasz_hinge(x, target, method="histogram", bins=bins)
        assert abs(value / exact - 1) <= 16 / max(bins, 32)
    half = torch.tensor([[0.5, 0.5000001]], dtype=torch.float64), torch.zeros(1, 2)
    assert F.lovasz_hinge(half[1], half[0], method="histogram") == F.lovasz_hinge(
        half[1], torch.tensor([[0, 1]]), method="histogram"
    )


OPTIONS = {
    losses.LovaszSoftmaxLoss: {
        "classes": ("all", [2, 0]), "per_image": (True,), "ignore_index": (1,),
        "method": ("histogram",), "bins": (5,),
        "from_logits": (False,), "strict": (False,), "reduction": ("sum", "none"),
    },
    losses.LovaszHingeLoss: {
        "per_image": (True,), "ignore_index": (1,), "method": ("histogram",), "bins": (5,),
        "reduction": ("sum", "none"),
    },
}  # fmt: skip


@pytest.mark.parametrize("module", OPTIONS)
def test_modules(module):
    """Same names and defaults as the function, and every option counts."""
    function, options = module.function, OPTIONS[module]
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert {p.name: p.default for p in inspect.signature(module).parameters.values()} == defaults
    inputs = GOOD[function].values()
    for values in itertools.product(*options.values()):
        chosen = dict(zip(options, values))
        loss = module()
        for name, value in chosen.items():
            setattr(loss, name, value)
        assert_matches(loss(*inputs), function(*inputs, **chosen).double())
        assert repr(loss) == repr(module(**chosen))
