"""Properties of the similarity of all pairs of boxes."""

import contextlib

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, seeds

import fastloss.functional as F
from fastloss.testing import Sample, assert_matches, implementation
from fastloss.testing.samples.box_loss import pairs

KINDS = ("iou", "giou", "diou", "ciou")
each_kind = pytest.mark.parametrize("kind", KINDS)
counts = st.integers(1, 40)


def boxes(seed: int, *counts: int) -> list[torch.Tensor]:
    """Boxes of an image of 100 x 100, of which a few are shared by all sets; coordinates are
    multiples of 1/8, so that sums, differences and areas have no rounding error."""
    g = torch.Generator().manual_seed(seed)
    shared, sets = pairs(2, g)[1], [pairs(count, g)[1] for count in counts]
    sets = [torch.cat((shared, given))[: len(given)] for given in sets]
    return [(given * 8).round() / 8 for given in sets]


def run(a, b, kind, eps=1e-9):
    """Similarity (N, M) and its gradients to both sets for an incoming gradient of 1."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    value = F.pairwise_iou(a, b, kind=kind, eps=eps)
    return value.detach(), *torch.autograd.grad(value.sum(), (a, b))


def close(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=atol)


@given(seeds, counts, counts)
def test_bounds_and_order(seed, n, m):
    value = {kind: run(*boxes(seed, n, m), kind)[0] for kind in KINDS}
    slack = 1e-9
    assert torch.all((value["iou"] >= 0) & (value["iou"] <= 1))
    for kind in KINDS[1:]:
        assert torch.all((value[kind] >= -1 - slack) & (value[kind] <= 1 + slack)), kind
        assert torch.all(value[kind] <= value["iou"] + slack), kind
    assert torch.all(value["ciou"] <= value["diou"] + slack)


@each_kind
@given(seeds, counts, counts)
def test_symmetric(kind, seed, n, m):
    a, b = boxes(seed, n, m)
    value, g_a, g_b = run(a, b, kind)
    other, other_b, other_a = run(b, a, kind)
    close(value, other.mT)
    close(g_a, other_a, atol=1e-8)
    close(g_b, other_b, atol=1e-8)


@each_kind
@given(seed=seeds, n=counts, power=st.integers(-8, 8), x=st.integers(-99, 99))
def test_scale_and_shift_change_nothing(kind, seed, n, power, x):
    """The gradient is divided by the scale."""
    a, b = boxes(seed, n, 5)
    shift, scale = torch.tensor([x, -3.0, x, -3.0], dtype=torch.float64), 2.0**power
    moved = ((a + shift) * scale, (b + shift) * scale)
    expected, moved = run(a, b, kind, eps=0), run(*moved, kind, eps=0)
    close(moved[0], expected[0])
    for gradient, before in zip(moved[1:], expected[1:]):
        close(gradient * scale, before)


@each_kind
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_the_diagonal_is_one_minus_the_aligned_loss(kind, dtype):
    """More boxes than a tile of any kernel has on either side."""
    g = torch.Generator().manual_seed(3)
    pred, target = (x.to(dtype).requires_grad_() for x in pairs(600, g))
    value = F.pairwise_iou(pred, target, kind=kind).diagonal()
    floor = 0 if kind == "iou" else 1e-7  # the loss, not the similarity, has a floor under IoU
    loss = F.box_loss(pred, target, kind=kind, eps=floor, union_eps=1e-7, reduction="none")
    assert_matches(value, 1 - loss.double())
    paired = torch.autograd.grad(value.sum(), (pred, target))
    aligned = torch.autograd.grad(loss.sum(), (pred, target))
    for one, other in zip(paired, aligned):
        assert_matches(one, -other.double())


@each_kind
@given(seed=seeds, n=counts, m=counts, dtype=dtypes, layout=layouts)
def test_like_the_reference(kind, seed, n, m, dtype, layout):
    a, b = boxes(seed, n, m)
    sample = Sample("drawn", F.pairwise_iou, {"boxes1": a, "boxes2": b}, {"kind": kind}, scale=1.0)
    assert_like_reference(sample, dtype, layout)


@given(seeds, counts, counts)
def test_a_pair_does_not_depend_on_the_others(seed, n, m):
    """The same bits alone as among others, if these do not ask for another precision."""
    a, b = (x.float() for x in boxes(seed, n, m))
    value = F.pairwise_iou(a, b, kind="giou")
    assert torch.equal(F.pairwise_iou(a[-1:], b[-1:], kind="giou"), value[-1:, -1:])


@pytest.mark.parametrize("language", ("C++", "reference", "triton"))
@pytest.mark.parametrize("size", ((2.0**100, 2.0**-56), (1e15, 1.17e-38)))
def test_heights_around_the_smallest_normal_number(size, language, triton_kernels):
    """Boxes that are much wider than high have nearly the same angle."""
    if language == "triton" and torch.cuda.is_available():
        pytest.skip("Triton compiles for the GPU here")
    a, b = (torch.tensor([[0.0, 0, size[0], size[1] * h]]) for h in (0.95, 1.1))
    mode = contextlib.nullcontext() if language == "C++" else implementation(language)
    with mode:
        value = run(a, b, "ciou", eps=0)[0]
    torch.testing.assert_close(value, (a[:, 3:] / b[:, 3:]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("language", ("C++", "triton"))
@each_kind
def test_boxes_of_any_size_side_by_side(kind, language, triton_kernels):
    """float32: value and gradient of a pair are right whatever other boxes there are, up to the
    largest number."""
    if language == "triton" and torch.cuda.is_available():
        pytest.skip("Triton compiles for the GPU here")
    sizes = torch.tensor([1e-12, 1.0, 1e12, 1e25, 2e38])[:, None]
    a, b = (torch.tensor([box]) * sizes for box in ([0.0, 0, 1, 1.6], [0.1, 0, 1.5, 1.6]))
    mode = implementation(language) if language == "triton" else contextlib.nullcontext()
    for eps in (0, 1e-30):
        with mode:
            value, *gradients = run(a, b, kind, eps=eps)
        exact, *expected = run(a[1:2].double(), b[1:2].double(), kind, eps=eps)
        assert_matches(value.diagonal(), exact.expand(5, 1)[:, 0])
        others = [g * sizes for g in run_pairs_alone(a, b, kind, mode, eps)]
        for gradient, one in zip(others, expected):
            torch.testing.assert_close(gradient, one.float().expand(5, 4), rtol=1e-4, atol=1e-6)


def run_pairs_alone(a, b, kind, mode, eps):
    """The gradients of each pair (a[i], b[i]) among the others, (N, 4) both."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    with mode:
        value = F.pairwise_iou(a, b, kind=kind, eps=eps)
        return torch.autograd.grad(value.diagonal().sum(), (a, b))


@pytest.mark.full
def test_more_than_two_to_the_31_pairs():
    """bfloat16: 4.3 GB of results and of their gradient, checked in places."""
    a, b = (x.bfloat16() for x in boxes(0, 46341, 46342))
    value = F.pairwise_iou(a, b, kind="giou")
    assert value.numel() > 2**31
    for rows in (slice(0, 3), slice(23000, 23003), slice(-3, None)):
        assert torch.equal(value[rows], F.pairwise_iou(a[rows], b, kind="giou"))
    del value
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(F.pairwise_iou(a, b, kind="giou")[-1, -1], a)
    last = a.detach()[-1:].requires_grad_()
    (expected,) = torch.autograd.grad(F.pairwise_iou(last, b[-1:], kind="giou").sum(), last)
    assert torch.equal(gradient[-1:], expected) and not gradient[:-1].any()


@pytest.mark.parametrize("kind", ("iou", "giou", "diou", "ciou"))
@pytest.mark.parametrize("size", (2.0**29, 2.0**31, 2.0**41, 1e18))
@pytest.mark.parametrize("eps", (1e-7, 1e15, 1e30))
def test_sizes_around_the_range_of_float_arithmetic(kind, size, eps):
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 20, 2, generator=g)
    boxes = torch.cat((corner, corner + torch.rand(2, 20, 2, generator=g)), -1) * size
    exact = F.pairwise_iou(*boxes.double(), kind=kind, eps=eps)
    assert_matches(F.pairwise_iou(*boxes, kind=kind, eps=eps), exact)
