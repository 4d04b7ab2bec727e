"""Properties of softmax cross entropy."""

import hypothesis.strategies as st
import torch
from hypothesis import given
from strategies import assert_like_reference, dtypes, layouts, rows, seeds, tensor

import fastloss.functional as F
from fastloss.testing import Sample

CLASSES = 4
logits = rows(st.floats(-30, 30), CLASSES)
smoothings = st.sampled_from((0.0, 0.1, 1.0))
reductions = st.sampled_from(("none", "mean", "sum"))


def labels(x, seed):
    """Some of them ignored."""
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(0, CLASSES, (x.shape[0], *x.shape[2:]), generator=g)
    return torch.where(torch.rand(target.shape, generator=g) < 0.2, -100, target)


def run(x, target, **options):
    x = x.detach().requires_grad_()
    loss = F.cross_entropy(x, target, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


@given(logits, seeds, smoothings, reductions, st.booleans())
def test_equals_torch(x, seed, smoothing, reduction, weighted):
    target = labels(x, seed)
    target[0] = 1
    weight = torch.rand(CLASSES, dtype=torch.float64) + 0.1 if weighted else None
    options = {"label_smoothing": smoothing, "reduction": reduction}
    leaf = x.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(leaf, target, weight, **options)
    gradient = torch.autograd.grad(expected.sum(), leaf)[0]
    loss, actual = run(x, target, class_weight=weight, **options)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(actual, gradient, rtol=1e-11, atol=1e-13)


@given(logits, seeds, smoothings)
def test_mean_over_nothing_is_zero(x, seed, smoothing):
    target = torch.full(x.shape[:1], -100)
    x[seed % len(x)] = torch.nan
    loss, gradient = run(x, target, label_smoothing=smoothing)
    assert loss == 0 and not gradient.any()


@given(logits, seeds, smoothings)
def test_gradient_sums_to_zero_and_ignored_logits_never_matter(x, seed, smoothing):
    target = labels(x, seed)
    options = {"label_smoothing": smoothing, "reduction": "none"}
    loss, gradient = run(x, target, **options)
    assert torch.all(gradient.sum(1).abs() <= 1e-13)
    ignored = target == -100
    again = run(x.masked_fill(ignored[:, None], torch.nan), target, **options)
    assert torch.equal(again[0], loss) and torch.equal(again[1], gradient)
    assert not loss[ignored].any() and not gradient[ignored].any()


@given(logits, seeds, reductions)
def test_class_weights_are_linear(x, seed, reduction):
    """Powers of two, so that no bit changes; the mean is divided by them again."""
    target, weight = labels(x, seed), torch.full((CLASSES,), 4.0, dtype=torch.float64)
    factor = 1 if reduction == "mean" else 4
    plain, weighted = (run(x, target, class_weight=w, reduction=reduction) for w in (None, weight))
    assert all(torch.equal(b, factor * a) for a, b in zip(plain, weighted))
    numbers = run(x, target, class_weight=[4.0] * CLASSES, reduction=reduction)
    assert all(torch.equal(a, b) for a, b in zip(numbers, weighted))


@given(
    seeds, st.sampled_from(((3, 4), (2, 4, 5), (2, 3, 2, 3), (1, 40, 7), (35, 47), (20, 1000))),
    dtypes, layouts, smoothings, reductions,
)  # fmt: skip
def test_equals_reference(seed, shape, dtype, layout, smoothing, reduction):
    x = 2 * tensor(seed, *shape)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    options = {"label_smoothing": smoothing, "reduction": reduction}
    sample = Sample("random", F.cross_entropy, {"logits": x, "target": target}, options, scale=0.1)
    assert_like_reference(sample, dtype, layout)


@given(seeds, dtypes, smoothings, st.sampled_from((16, 31, 40)))
def test_rows_are_read_where_they_lie(seed, dtype, smoothing, classes):
    """The bits of a view, and of channels-last images, are those of a copy."""
    wide = tensor(seed, 70, classes + 2).to(dtype)
    target = torch.randint(0, classes, (70,), generator=torch.Generator().manual_seed(seed))
    options = {"label_smoothing": smoothing, "reduction": "none"}
    view = wide[:, :-2]
    loss, gradient = run(view.contiguous(), target, **options)
    of_view = run(view, target, **options)
    assert torch.equal(of_view[0], loss) and torch.equal(of_view[1], gradient)
    assert of_view[1].is_contiguous()
    images = view.unflatten(0, (2, 35)).mT
    of_images = run(images, target.view(2, 35), **options)
    assert torch.equal(of_images[0].flatten(), loss)
    assert torch.equal(of_images[1].mT.flatten(0, 1), gradient)


@given(logits, seeds, smoothings)
def test_weight_of_a_pixel_multiplies_it(x, seed, smoothing):
    target, options = labels(x, seed), {"label_smoothing": smoothing}
    weight = torch.rand(target.shape, dtype=torch.float64)
    weight[0] = 0
    x[0] = x[0].masked_fill(target[0] == -100, torch.nan)
    loss, gradient = run(x, target, weight=weight, avg_factor=4.0, **options)
    each, g = run(x, target, reduction="none", **options)
    torch.testing.assert_close(loss, (each * weight).sum() / 4, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(gradient, g * weight[:, None] / 4, rtol=1e-12, atol=1e-13)
    assert not gradient[0].any()


@given(
    seeds, st.sampled_from(((9, 20), (2, 5, 40))), smoothings, st.sampled_from((0.0, 1e4, -1e6))
)  # fmt: skip
def test_an_offset_of_all_logits_costs_no_digits(seed, shape, smoothing, offset):
    """-ln p is a difference of logits, which are exact here."""
    x = (tensor(seed, *shape) * 8).round() / 8 + offset
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    options = {"label_smoothing": smoothing, "reduction": "none"}
    exact = torch.nn.functional.cross_entropy(x, target, **options)
    for loss in (
        F.cross_entropy(x.float(), target, **options),
        F.segmentation_loss(x.float(), target, terms={"cross_entropy": 1.0})[0],
    ):
        wanted = exact if loss.dim() else torch.nn.functional.cross_entropy(x, target)
        torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=1e-6)
