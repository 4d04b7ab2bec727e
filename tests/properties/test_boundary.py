"""The sliding maximum against torch's own, and properties of the boundary loss."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from strategies import dtypes, layouts, seeds, tensor
from torch.nn import functional

import fastloss.functional as F
from fastloss.testing import assert_matches
from fastloss.testing.samples.boundary import loss_input
from fastloss.testing.samples.sample import generator

sides = st.integers(1, 24)
floors = st.sampled_from((None, 0.0, 1.5))
windows = st.integers(0, 10).map(lambda r: 2 * r + 1)


def run(function, x, **options):
    """Value, and gradient for an incoming one that is exact in every dtype."""
    x = x.detach().requires_grad_()
    value = function(x, **options)
    steps = torch.arange(value.numel()).view(value.shape) % 5 + 1.0
    return value.detach(), torch.autograd.grad(value, x, steps.to(value.dtype))[0]


def max_pool(x, window):
    return functional.max_pool2d(x, window, stride=1, padding=window // 2)


@given(seeds, sides, sides, windows, st.sampled_from((0, 1, 4)), dtypes, layouts, floors)
def test_pool_is_that_of_torch(seed, height, width, window, steps, dtype, layout, floor):
    """Few steps make ties; windows may be larger than the image; some hold nothing but -inf."""
    x = tensor(seed, 2, 3, height, width)
    x = (x * steps).round() if steps else x
    if floor is not None:
        x = x.masked_fill(x > floor + 1.5, torch.nan).masked_fill(x < floor, -torch.inf)
    x = layout(x.to(dtype))
    value, gradient = run(F.boundary_pool, x, window=window)
    expected, slopes = run(max_pool, x.double(), window=window)
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=0, equal_nan=True)
    assert_matches(gradient, slopes)


@pytest.mark.parametrize("window", range(1, 23, 2))
def test_every_window_finds_the_places_that_torch_finds(window):
    """Each maximum sends a number of its own to its place."""
    x = (tensor(window, 1, 2, 17, 19) * 2).round()
    _, places = functional.max_pool2d(x, window, 1, window // 2, return_indices=True)
    numbers = torch.arange(x[0, 0].numel(), dtype=torch.float64).exp2_().view(17, 19)
    for i in range(0, numbers.numel(), 50):  # 50 bits of a double at a time
        sent = torch.zeros_like(x).flatten(2)
        sent[..., i : i + 50] = numbers.flatten()[:50][: sent[..., i : i + 50].shape[-1]]
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.boundary_pool(leaf, window), leaf, sent.view_as(x))
        expected = torch.zeros_like(sent).scatter_add(2, places.flatten(2), sent)
        assert torch.equal(gradient.flatten(2), expected)


@pytest.mark.parametrize("window", (101, 257, 2**40 + 1))
def test_windows_of_hundreds_of_pixels(window):
    x = tensor(0, 1, 1, 130, 140).float()
    value, gradient = run(F.boundary_pool, x, window=window)
    side = min(window, 279)
    rows = functional.max_pool2d(x, (1, side), 1, (0, side // 2))
    expected = functional.max_pool2d(rows, (side, 1), 1, (side // 2, 0))
    assert torch.equal(value, expected)
    assert gradient.sum() == (torch.arange(x.numel()) % 5 + 1).sum()
    assert not gradient[~torch.isin(x, value)].any()


def oracle(x, target, theta0, theta):
    """From the description of the loss, one image and class at a time."""
    p = x.softmax(1)
    hot = functional.one_hot(target, x.shape[1]).movedim(-1, 1).to(x.dtype)

    def maps(m):
        b = max_pool(1 - m, theta0) - (1 - m)
        return b, max_pool(b, theta)

    losses = []
    for one, truth in zip(p.flatten(0, 1), hot.flatten(0, 1), strict=True):
        (b, e), (true_b, true_e) = maps(one[None, None]), maps(truth[None, None])
        precision = (b * true_e).sum() / (b.sum() + 1e-7)
        recall = (e * true_b).sum() / (true_b.sum() + 1e-7)
        losses.append(1 - 2 * precision * recall / (precision + recall + 1e-7))
    return torch.stack(losses).view(x.shape[:2])


@given(
    seeds, st.integers(1, 4), sides, sides, windows, windows, st.integers(1, 6), layouts,
    st.sampled_from(("none", "mean", "sum")),
)  # fmt: skip
def test_loss_is_that_of_its_description(
    seed, classes, height, width, theta0, theta, block, layout, reduction
):
    x = tensor(seed, 2, classes, height, width)
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (2, height // block + 1, width // block + 1), generator=g)
    target = target.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :height, :width]
    options = {"theta0": theta0, "theta": theta}
    value, gradient = run(
        lambda x: F.boundary_loss(layout(x), layout(target), reduction=reduction, **options), x
    )
    # The layout "expanded" has one image twice.
    expected, slopes = run(
        lambda x: {"none": lambda v: v, "mean": torch.mean, "sum": torch.sum}[reduction](
            oracle(layout(x), layout(target), **options)
        ),
        x,
    )
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("shape", ((11, 5, 6, 7), (1, 3, 101, 203)), ids=str)
def test_several_groups_of_images_and_chunks_of_pixels(shape):
    """The kernels take some images together, and cut large ones into chunks."""
    x = tensor(0, *shape)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator())
    value, gradient = run(F.boundary_loss, x, target=target, reduction="none")
    expected, slopes = run(oracle, x, target=target, theta0=3, theta=5)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-13)
    target[-1, -1, -1] = shape[1]
    with pytest.raises(IndexError, match=f"got {shape[1]} at index {target.numel() - 1}"):
        F.boundary_loss(x, target)


@pytest.mark.parametrize("classes", (31, 32, 33, 65, 150))
def test_more_classes_than_bits(classes):
    x = tensor(classes, 2, classes, 9, 11)
    target = torch.randint(0, classes, (2, 9, 11), generator=generator(classes))
    target[:, :, 5:] = classes - 1
    value, gradient = run(lambda x: F.boundary_loss(x, target, reduction="none"), x)
    expected, slopes = run(lambda x: oracle(x, target, 3, 5), x)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, slopes, rtol=1e-9, atol=1e-13)


@settings(max_examples=12)
@given(seeds, dtypes, st.sampled_from((1, 3, 7)))
def test_loss_of_numbers_that_every_precision_orders_alike(seed, dtype, theta0):
    x, target = loss_input((2, 3, 5, 6), theta0, 3, generator(seed))
    options = {"theta0": theta0, "theta": 3}
    value, gradient = run(lambda x: F.boundary_loss(x, target, **options), x.to(dtype))
    expected, slopes = run(lambda x: oracle(x, target, **options).mean(), x)
    assert_matches(value, expected, scale=0.005)
    assert_matches(gradient, slopes, scale=0.005)


def test_a_right_prediction_has_loss_0_and_a_class_without_boundary_1():
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, :, 4:] = 1
    x = functional.one_hot(target, 3).movedim(-1, 1).double() * 200
    losses = F.boundary_loss(x, target, reduction="none")
    torch.testing.assert_close(losses, torch.tensor([[0.0, 0.0, 1.0]]).double(), rtol=0, atol=1e-6)
    assert F.boundary_loss(x, torch.zeros_like(target)) == 1


@given(seeds, st.integers(0, 3))
def test_a_shifted_prediction_is_found_within_the_window(seed, shift):
    """A boundary that is off by `shift` pixels counts while half the window theta reaches it."""
    target = torch.zeros(1, 6, 20, dtype=torch.long)
    target[:, :, 10:] = 1
    x = functional.one_hot(target.roll(shift, 2), 2).movedim(-1, 1).double() * 200
    x[..., :4], x[..., 16:] = x[..., 4:5], x[..., 15:16]
    for theta in (1, 3, 5, 7):
        loss = F.boundary_loss(x, target, theta=theta, reduction="none")
        assert (loss < 1e-6).all() if shift <= theta // 2 else (loss > 0.2).all()
