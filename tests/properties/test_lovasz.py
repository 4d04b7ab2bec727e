"""Properties of the Lovász losses."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, seeds, tensor

import fastloss.functional as F
from fastloss.testing import Sample

counts = st.integers(1, 12)
images = st.integers(1, 3)


def jaccard_loss(wrong, positive):
    """One minus the Jaccard index of the positives with a set of pixels taken wrongly."""
    union = positive | wrong
    return 1 - len(positive - wrong) / len(union) if union else 0.0


def extension(errors, labels):
    """The Lovász extension by its definition, and its gradient to the errors."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])  # stable
    positive = {i for i, label in enumerate(labels) if label}
    value, gradient = 0.0, [0.0] * len(errors)
    for rank, i in enumerate(order):
        jump = jaccard_loss({*order[: rank + 1]}, positive) - jaccard_loss(
            {*order[:rank]}, positive
        )
        gradient[i] = jump if errors[i] > 0 else 0.0
        value += max(errors[i], 0.0) * jump
    return value, torch.tensor(gradient, dtype=torch.float64)


def run(function, x, t, **options):
    x = x.detach().requires_grad_()
    value = function(x, t, **options)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def labels(seed, *shape, classes=2):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


@given(seeds, counts, st.sampled_from((1, 8)))
def test_hinge_is_the_extension_by_its_definition(seed, n, steps):
    """Few steps make ties: the first of equal errors comes first."""
    x, t = (tensor(seed, n) * steps).round() / steps, labels(seed, n)
    signs = 2.0 * t - 1
    value, gradient = run(F.lovasz_hinge, x[None], t[None])
    expected, slopes = extension((1 - x * signs).tolist(), t.tolist())
    close(value, torch.tensor(expected, dtype=torch.float64))
    close(gradient[0], -signs * slopes)


def test_of_many_equal_errors_the_first_comes_first():
    x, t = tensor(0, 400).round(), labels(0, 400)
    _, gradient = run(F.lovasz_hinge, x[None], t[None])
    signs = 2.0 * t - 1
    close(gradient[0], -signs * extension((1 - x * signs).tolist(), t.tolist())[1])


@given(seeds, counts, st.integers(2, 4))
def test_softmax_is_the_mean_over_the_present_classes(seed, n, classes):
    p = (tensor(seed, 1, classes, n).softmax(1) * 16).round() / 16
    t = labels(seed, 1, n, classes=classes)
    value, gradient = run(F.lovasz_softmax, p, t, from_logits=False)
    parts, total = [], torch.zeros_like(p)
    for c in t.unique().tolist():
        hot = (t[0] == c).double()
        part, slopes = extension((hot - p[0, c]).abs().tolist(), hot.tolist())
        total[0, c] = slopes * (p[0, c] - hot).sign()
        parts.append(part)
    close(value, torch.tensor(sum(parts) / len(parts), dtype=torch.float64))
    close(gradient, total / len(parts))


@given(seeds, counts, st.integers(1, 4))
def test_softmax_of_hard_predictions_is_one_minus_the_iou(seed, n, classes):
    prediction, t = labels(seed, n, classes=classes), labels(seed + 1, n, classes=classes)
    p = torch.nn.functional.one_hot(prediction, classes).t()[None].double()
    value = F.lovasz_softmax(p, t[None], from_logits=False)
    ious = [
        ((prediction == c) & (t == c)).sum().double() / ((prediction == c) | (t == c)).sum()
        for c in t.unique()
    ]
    close(value, 1 - torch.stack(ious).mean())


@given(seeds, counts, st.integers(2, 4))
def test_softmax_of_logits_is_that_of_their_probabilities(seed, n, classes):
    x = tensor(seed, 2, classes, n).requires_grad_()
    t = labels(seed, 2, n, classes=classes)
    value, gradient = run(F.lovasz_softmax, x, t)
    expected = F.lovasz_softmax(x.softmax(1), t, from_logits=False)
    close(value, expected.detach())
    close(gradient, torch.autograd.grad(expected, x)[0])


@pytest.mark.parametrize("function", (F.lovasz_softmax, F.lovasz_hinge))
@given(seed=seeds, n=images, count=counts)
def test_an_ignored_pixel_is_as_good_as_none(function, seed, n, count):
    """Also if its logits are NaN. The rest of the first image is a batch of its own."""
    softmax = function is F.lovasz_softmax
    x = tensor(seed, n, *((3,) if softmax else ()), count)
    t = labels(seed, n, count, classes=3 if softmax else 2)
    kept = labels(seed + 1, count).bool()
    t[:, ~kept], t[1:], x[..., ~kept] = 255, 255, torch.nan
    value, gradient = run(function, x, t, ignore_index=255)
    expected, slopes = run(function, x[:1, ..., kept], t[:1, kept])
    close(value, expected)
    close(gradient[:1, ..., kept], slopes)
    assert not gradient[..., ~kept].any() and not gradient[1:].any()


@pytest.mark.parametrize("function", (F.lovasz_softmax, F.lovasz_hinge))
@given(seed=seeds, n=images, count=counts)
def test_per_image_is_one_call_per_image(function, seed, n, count):
    softmax = function is F.lovasz_softmax
    x = tensor(seed, n, *((3,) if softmax else ()), count)
    t = labels(seed, n, count, classes=3 if softmax else 2)
    t[0, : count // 2] = 7
    each = [run(function, x[i : i + 1], t[i : i + 1], ignore_index=7) for i in range(n)]
    values, gradients = torch.stack([v for v, _ in each]), torch.cat([g for _, g in each])
    for reduction, expected, scale in (
        ("none", values, 1), ("sum", values.sum(), 1), ("mean", values.mean(), 1 / n),
    ):  # fmt: skip
        options = {"per_image": True, "ignore_index": 7, "reduction": reduction}
        value, gradient = run(function, x, t, **options)
        close(value, expected)
        close(gradient, gradients * scale)


@given(seeds, counts, st.integers(2, 4))
def test_classes(seed, n, classes):
    """All classes are the mean of each alone; a label out of range is background if lenient."""
    x, t = tensor(seed, 1, classes, n), labels(seed, 1, n, classes=classes + 1)
    options = {"strict": False}
    each = [F.lovasz_softmax(x, t, classes=[c], **options) for c in range(classes)]
    close(F.lovasz_softmax(x, t, classes="all", **options), torch.stack(each).mean())
    twice = torch.stack((each[1], each[0], each[1])).mean()
    close(F.lovasz_softmax(x, t, classes=[1, 0, 1], **options), twice)
    present = [each[c] for c in t.unique().tolist() if c < classes]
    if present:
        close(F.lovasz_softmax(x, t, **options), torch.stack(present).mean())
    else:
        assert F.lovasz_softmax(x, t, **options) == 0


@given(seeds, counts)
def test_bounds(seed, n):
    x, t = tensor(seed, 2, 3, n) * 4, labels(seed, 2, n, classes=3)
    value = F.lovasz_softmax(x, t)
    assert 0 <= value <= 1
    confident = torch.nn.functional.one_hot(t, 3).movedim(-1, 1).double() * 1000
    assert F.lovasz_softmax(confident, t) == 0 and F.lovasz_softmax(-confident, t) > 0.99


@given(seeds, images, counts, dtypes, layouts, st.booleans(), st.booleans())
def test_hinge_like_the_reference(seed, n, count, dtype, layout, soft, per_image):
    """Numbers for which errors are exact, so that the order is the same in every precision."""
    x = (tensor(seed, n, count) * 16).round().clamp(-100, 100) / 16
    t = labels(seed, n, count, classes=17) / 16.0 if soft else labels(seed, n, count)
    inputs, options = {"logits": x, "target": t.double() if soft else t}, {"per_image": per_image}
    sample = Sample("drawn", F.lovasz_hinge, inputs, options, scale=1e-3)
    assert_like_reference(sample, dtype, layout)


@pytest.mark.parametrize("function", (F.lovasz_softmax, F.lovasz_hinge))
def test_many_pixels(function):
    """float32 counts beyond 2^24 would lose pixels; the jumps of each class add up to 1."""
    n = 300_001
    x, t = tensor(0, 1, 2, n).float(), labels(1, 1, n)
    x = x if function is F.lovasz_softmax else x[:, 0].abs().clamp(max=0.5)
    value, gradient = run(function, x, t)
    expected, slopes = run(function, x.double(), t)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    assert (gradient - slopes).abs().sum() < 1e-3 * slopes.abs().sum()
    if function is F.lovasz_hinge:
        assert abs(slopes.abs().sum() - 1) < 1e-9


def test_of_zeros_and_ones_it_is_the_jaccard_loss():
    """For all predictions and labels of five pixels."""
    sets = torch.tensor(list(itertools.product((0, 1), repeat=5)))
    predicted, true = sets.repeat_interleave(len(sets), 0), sets.repeat(len(sets), 1)
    p = torch.stack((1 - predicted, predicted), 1).double()
    options = {"classes": [1], "from_logits": False, "per_image": True, "reduction": "none"}
    both, either = (predicted & true).sum(1), (predicted | true).sum(1)
    expected = torch.where(either == 0, 0, 1 - both.double() / either.clamp(min=1))
    close(F.lovasz_softmax(p, true, **options), expected)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("steps", (None, 50))
def test_exact_is_a_sort_in_float64(dtype, steps):
    """Of the errors as they are rounded; with steps most of them are equal."""
    g = torch.Generator().manual_seed(3)
    p = torch.rand(2, 3, 40, 50, generator=g, dtype=torch.float64).softmax(1)
    p = ((p * steps).round() / steps if steps else p).to(dtype)
    t = torch.randint(0, 3, (2, 40, 50), generator=g)
    value, gradient = run(F.lovasz_softmax, p, t, from_logits=False)
    expected, total = 0.0, torch.zeros_like(p, dtype=torch.float64)
    for c in range(3):
        hot = (t == c).flatten()
        difference = (p[:, c].flatten() - hot.to(dtype)).double()
        error, order = difference.abs().sort(descending=True, stable=True)
        f = hot[order].double()
        after = f.sum() - f.cumsum(0)
        loss = 1 - after / (torch.arange(1, len(f) + 1) + after)
        jump = loss.diff(prepend=loss.new_zeros(1))
        expected += (error * jump).sum() / 3
        slope = torch.zeros_like(jump).scatter(0, order, jump) * difference.sign() / 3
        total[:, c] = slope.view(2, 40, 50)
    scale = torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), expected, rtol=64 * scale, atol=0)
    torch.testing.assert_close(gradient.double(), total, rtol=8 * scale, atol=1e-15)


@pytest.mark.full
def test_beyond_the_logits_that_32_bits_count():
    """2^30 logits, for which a pixel's number and its label no longer fit; all images are one."""
    g = torch.Generator().manual_seed(4)
    x = torch.randn(1, 2, 2**20, generator=g).bfloat16()
    t = torch.randint(0, 2, (1, 2**20), generator=g).to(torch.uint8)
    many = x.expand(512, -1, -1), t.expand(512, -1)
    for method in ("exact", "histogram"):
        options = {"per_image": True, "reduction": "none", "method": method}
        values = F.lovasz_softmax(*many, **options)
        assert torch.equal(values, F.lovasz_softmax(x, t, **options).expand(512))
