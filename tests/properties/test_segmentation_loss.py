"""Properties of the segmentation losses."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import settings
from strategies import assert_like_reference, dtypes, layouts, seeds, tensor
from torch.nn.functional import one_hot

import fastloss.functional as F
from fastloss.testing import Sample, assert_matches
from fastloss.testing.samples.segmentation_loss import each

CLASSES = 4
TERMS = {
    "cross_entropy": {"label_smoothing": 0.1},
    "softmax_focal": {"gamma": 1.5},
    "sigmoid_focal": {"alpha": 0.25, "normalized": True},
    "dice": {"smooth": 0.3},
    "jaccard": {"log": True, "classes": [1, 2]},
    "tversky": {"alpha": 0.3, "beta": 0.7, "gamma": 1.3},
    "soft_bce": {"smoothing": 0.1},
    "mcc": {"eps": 1e-2},
}
each_term = pytest.mark.parametrize("name", TERMS)
images = st.tuples(st.integers(1, 3), st.sampled_from((1, 2, 5, 12)))


def given(*args, **named):
    """Few examples, for there are many terms."""
    draw = hypothesis.given(*args, **named)
    return lambda test: settings(max_examples=10)(draw(test))


def problem(seed, size, classes=CLASSES):
    """Logits (N, C, P) and labels (N, P)."""
    n, pixels = size
    g = torch.Generator().manual_seed(seed + 1)
    return 2 * tensor(seed, n, classes, pixels), torch.randint(0, classes, (n, pixels), generator=g)


def run(x, target, terms, **options):
    """The sum and its gradient to the logits."""
    x = x.detach().requires_grad_()
    total, _ = F.segmentation_loss(x, target, terms=terms, **options)
    return total.detach(), torch.autograd.grad(total, x)[0]


def close(a, b):
    for x, y in zip(a, b):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-13)


@each_term
@given(seeds, images, st.sampled_from((1e4, torch.nan, torch.inf)))
def test_ignored_logits_never_matter(name, seed, size, value):
    x, target = problem(seed, size)
    ignored = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    target[ignored] = 255
    wild = x.masked_fill(ignored[:, None], value)
    a = run(x, target, {name: TERMS[name]}, ignore_index=255)
    b = run(wild, target, {name: TERMS[name]}, ignore_index=255)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert not a[1].mT[ignored].any()
    # Nor do the pixels' places: those that count, alone, have the same loss.
    kept = x.movedim(1, 0)[:, ~ignored][None], target[~ignored][None]
    if name != "tversky":
        torch.testing.assert_close(run(*kept, {name: TERMS[name]})[0], a[0], rtol=1e-9, atol=1e-13)


@each_term
@given(seeds, images)
def test_order_of_pixels_and_images_does_not_matter(name, seed, size):
    x, target = problem(seed, size)
    g = torch.Generator().manual_seed(seed)
    places, order = torch.randperm(size[1], generator=g), torch.randperm(size[0], generator=g)
    loss, gradient = run(x, target, {name: TERMS[name]})
    moved = run(x[order][..., places], target[order][..., places], {name: TERMS[name]})
    close(moved, (loss, gradient[order][..., places]))


@each_term
@given(seeds, images)
def test_order_of_classes_does_not_matter(name, seed, size):
    x, target = problem(seed, size)
    g = torch.Generator().manual_seed(seed)
    order, weight = torch.randperm(CLASSES, generator=g), torch.rand(CLASSES, generator=g).double()
    options = {k: v for k, v in TERMS[name].items() if k != "classes"}
    loss, gradient = run(x, target, {name: options}, class_weight=weight)
    renamed = order.argsort()[target]
    moved = run(x[:, order], renamed, {name: options}, class_weight=weight[order])
    close(moved, (loss, gradient[:, order]))


@given(seeds, images, st.sets(st.sampled_from(sorted(TERMS)), min_size=1), dtypes)
def test_a_sum_of_terms_is_the_sum_of_single_calls(seed, size, names, dtype):
    """Values to the bit; gradients but for the order of additions."""
    x, target = problem(seed, size)
    x, weights = x.to(dtype), {name: 0.5 + i for i, name in enumerate(sorted(names))}
    terms = {name: {**TERMS[name], "weight": w} for name, w in weights.items()}
    total, values = F.segmentation_loss(x, target, terms=terms)
    assert [*values] == [*terms]
    alone = {name: F.segmentation_loss(x, target, terms={name: terms[name]}) for name in terms}
    for name, (single, single_values) in alone.items():
        assert torch.equal(values[name], single) and torch.equal(single, single_values[name])
    scale = sum(abs(v.double()) for v in values.values())
    assert_matches(total, sum(v.double() for v in values.values()).to(dtype).double(), scale=scale)
    x = x.double()
    gradient = sum(run(x, target, {name: terms[name]})[1] for name in terms)
    torch.testing.assert_close(run(x, target, terms)[1], gradient, rtol=1e-9, atol=1e-13)


@given(seeds, images, st.lists(st.sampled_from(sorted(TERMS)), min_size=1, max_size=6))
def test_terms_under_other_names(seed, size, kinds):
    """Of any kinds, several of one too: each as under the name of its kind, to the bit."""
    x, target = problem(seed, size)
    terms = {
        f"{i}": {"kind": kind, **TERMS[kind], "weight": 0.5 + i} for i, kind in enumerate(kinds)
    }
    terms["lovasz"] = {"kind": "dice", "log": True, "smooth": 0.1}
    total, values = F.segmentation_loss(x, target, terms=terms)
    assert [*values] == [*terms]
    for name, options in terms.items():
        options = dict(options)
        (alone,) = F.segmentation_loss(x, target, terms={options.pop("kind"): options})[:1]
        assert torch.equal(values[name], alone)
    torch.testing.assert_close(total, sum(values.values()))


@given(seeds, images)
def test_lovasz_is_added_with_its_weight(seed, size):
    x, target = problem(seed, size)
    options = {"weight": 0.7, "per_image": True}
    terms = {"lovasz": options, "dice": {"smooth": 0.3, "weight": 2.0}}
    total, values = F.segmentation_loss(x, target, terms=terms)
    assert [*values] == ["lovasz", "dice"]
    lovasz = 0.7 * F.lovasz_softmax(x, target, per_image=True)
    close((values["lovasz"], total), (lovasz, lovasz + values["dice"]))
    close(run(x, target, {"lovasz": options})[:1], (lovasz,))
    options |= {"method": "histogram", "bins": 9}
    lovasz = 0.7 * F.lovasz_softmax(x, target, per_image=True, method="histogram", bins=9)
    lenient = F.segmentation_loss(x, target, terms={"lovasz": options}, strict=False)
    close(lenient[:1], (lovasz,))
    assert F.segmentation_loss(x, target + 1, terms={"lovasz": options}, strict=False)[0].isfinite()


@given(seeds, images)
def test_modes_agree(seed, size):
    """Multilabel with the one-hot target is what binary is for each class by itself."""
    x, target = problem(seed, size)
    hot = one_hot(target, CLASSES).movedim(-1, 1)
    terms = {name: TERMS[name] for name in ("sigmoid_focal", "soft_bce")}
    close(run(x, target, terms), run(x, hot.double(), terms, mode="multilabel"))
    close(run(x, hot, terms, mode="multilabel"), run(x, hot.double(), terms, mode="multilabel"))
    terms = {name: TERMS[name] for name in ("dice", "soft_bce", "sigmoid_focal")}
    whole = run(x, hot, terms, mode="multilabel")[0]
    single = [run(x[:, c : c + 1], hot[:, c], terms, mode="binary")[0] for c in range(CLASSES)]
    close((whole,), (sum(single) / CLASSES,))
    probabilities = run(x.softmax(1), target, {"dice": TERMS["dice"]}, from_logits=False)[0]
    close((probabilities,), run(x, target, {"dice": TERMS["dice"]})[:1])


@given(seeds, images)
def test_cross_entropy_is_that_of_torch(seed, size):
    x, target = problem(seed, size)
    weight = torch.rand(CLASSES, generator=torch.Generator().manual_seed(seed)).double()
    target[0, 0] = 1
    leaf = x.clone().requires_grad_()
    options = {"label_smoothing": 0.1, "ignore_index": 2}
    expected = torch.nn.functional.cross_entropy(leaf, target, weight, **options)
    gradient = torch.autograd.grad(expected, leaf)
    terms = {"cross_entropy": {"label_smoothing": 0.1, "class_weight": weight}}
    close(run(x, target, terms, ignore_index=2), (expected.detach(), *gradient))


@pytest.mark.parametrize("name", ("dice", "jaccard"))
@given(seeds, images)
def test_region_losses_of_hard_predictions_are_scores_of_the_confusion_matrix(name, seed, size):
    x, target = problem(seed, size)
    hard = one_hot(x.argmax(1), CLASSES).movedim(-1, 1).double()
    total, _, metrics = F.segmentation_loss(
        hard, target, terms={name: 1.0}, from_logits=False, metrics=True
    )
    scores = []
    for c in range(CLASSES):
        tp = ((x.argmax(1) == c) & (target == c)).sum().double()
        fp = ((x.argmax(1) == c) & (target != c)).sum().double()
        fn = ((x.argmax(1) != c) & (target == c)).sum().double()
        for key, count in (("true_positive", tp), ("false_positive", fp), ("false_negative", fn)):
            assert metrics[key][c] == count
        torch.testing.assert_close(metrics["iou"][c], tp / (tp + fp + fn), equal_nan=True)
        torch.testing.assert_close(metrics["dice"][c], 2 * tp / (2 * tp + fp + fn), equal_nan=True)
        score = tp / (tp + fp + fn) if name == "jaccard" else 2 * tp / (2 * tp + fp + fn)
        scores.append(1 - score if tp + fn > 0 else torch.zeros(()).double())
    torch.testing.assert_close(total, sum(scores) / CLASSES, rtol=1e-9, atol=1e-12)
    assert metrics["accuracy"] == (x.argmax(1) == target).double().mean()


@given(seeds, images, st.booleans())
def test_metrics_of_soft_predictions(seed, size, ignore):
    """From the class of the largest logit, or p > 1/2; ignored pixels count nowhere."""
    x, target = problem(seed, size)
    if ignore:
        target[target == 3] = 255
    options = {"terms": {"dice": 1.0}, "metrics": True, "ignore_index": 255}
    *_, metrics = F.segmentation_loss(x, target, **options)
    valid, best = target != 255, x.argmax(1)
    for c in range(CLASSES):
        hits = (best == c) & (target == c)
        assert metrics["true_positive"][c] == hits.sum()
        assert metrics["false_positive"][c] == ((best == c) & (target != c) & valid).sum()
    if valid.any():
        assert metrics["accuracy"] == ((best == target) & valid).sum() / valid.sum().double()
    hot = one_hot(target.clamp(max=3), 4).movedim(-1, 1) * valid[:, None]
    *_, metrics = F.segmentation_loss(x, hot, **{**options, "mode": "multilabel"})
    above = x > 0
    assert torch.equal(metrics["true_positive"], (above & (hot == 1)).sum((0, 2)).double())
    assert torch.equal(metrics["false_negative"], (~above & (hot == 1)).sum((0, 2)).double())
    torch.testing.assert_close(metrics["accuracy"], (above == (hot == 1)).double().mean())


@given(seeds, images)
def test_jaccard_follows_from_dice(seed, size):
    """J = D / (2 - D) for the scores of one class."""
    x, target = problem(seed, size)
    target[0, 0] = 1
    dice, jaccard = (
        1 - F.segmentation_loss(x, target, terms={name: {"classes": [1]}})[0]
        for name in ("dice", "jaccard")
    )
    torch.testing.assert_close(jaccard, dice / (2 - dice), rtol=1e-9, atol=1e-12)
    for name, (a, b) in {"dice": (0.5, 0.5), "jaccard": (1.0, 1.0)}.items():
        tversky = run(x, target, {"tversky": {"alpha": a, "beta": b}})
        close(tversky, run(x, target, {name: 1.0}))


@pytest.mark.parametrize("name", ("dice", "jaccard", "tversky"))
@given(seeds, images, st.floats(0, 10))
def test_smoothing_lowers_a_region_loss_that_stays_in_bounds(name, seed, size, smooth):
    x, target = problem(seed, size)
    plain = F.segmentation_loss(x, target, terms={name: 1.0})[0]
    smoothed = F.segmentation_loss(x, target, terms={name: {"smooth": smooth}})[0]
    assert -1e-12 <= smoothed <= plain + 1e-12 <= 1 + 1e-9
    absent = torch.zeros_like(target)
    terms = {name: {"smooth": smooth, "classes": [1, 2, 3]}}
    assert F.segmentation_loss(x, absent, terms=terms)[0] == 0


@each_term
@given(seeds, st.sampled_from((1, 5, 12)))
def test_one_image_is_a_batch(name, seed, pixels):
    x, target = problem(seed, (1, pixels))
    if "smooth" in TERMS[name] or name in ("jaccard", "tversky"):
        a = run(x, target, {name: TERMS[name]})
        b = run(x, target, {name: {**TERMS[name], "per_image": True}})
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    # Images are independent: per_image is the mean of calls of one.
    x, target = problem(seed, (3, pixels))
    if name in ("dice", "jaccard", "tversky"):
        terms = {name: {**TERMS[name], "per_image": True}}
        whole, single = run(x, target, terms), [
            run(x[i : i + 1], target[i : i + 1], terms) for i in range(3)
        ]  # fmt: skip
        close(whole, (sum(s[0] for s in single) / 3, torch.cat([s[1] for s in single]) / 3))


@each_term
@given(seeds, images, dtypes)
def test_layouts_give_the_same_bits(name, seed, size, dtype):
    x, target = problem(seed, (size[0], 4 * size[1]))
    x, target = x.to(dtype).unflatten(-1, (2, -1)), target.unflatten(-1, (2, -1))
    last = x.contiguous(memory_format=torch.channels_last)
    a, b = run(x, target, {name: TERMS[name]}), run(last, target, {name: TERMS[name]})
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert b[1].is_contiguous(memory_format=torch.channels_last)


@each_term
@given(seeds, images)
def test_shifted_logits_give_the_same_softmax_losses(name, seed, size):
    """And gradients that add up to 0 over the classes."""
    if name in ("sigmoid_focal", "soft_bce"):
        return
    x, target = problem(seed, size)
    loss, gradient = run(x, target, {name: TERMS[name]})
    shift = tensor(seed + 2, x.shape[0], 1, x.shape[2])
    close(run(x + shift, target, {name: TERMS[name]}), (loss, gradient))
    total, size = gradient.sum(1), gradient.abs().sum(1)
    assert torch.all(total.abs() <= 1e-12 * size + 1e-15)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_many_pixels_in_half_precision(dtype):
    """Sums beyond the largest float16 number, and gradients near its smallest."""
    x, target = problem(0, (1, 70_000), 2)
    x = (x * 2).to(dtype)
    terms = {**TERMS, "jaccard": {"log": True}}
    total, values = F.segmentation_loss(x, target, terms=terms)
    _, expected = F.segmentation_loss(x.double(), target, terms=terms)
    for name, value in values.items():
        assert_matches(value, expected[name], what=name)
    assert_matches(run(x, target, terms)[1], run(x.double(), target, terms)[1])
    total = F.segmentation_loss(x, target, terms={"cross_entropy": {"reduction": "sum"}})[0]
    assert total.isfinite() == (dtype == torch.bfloat16)  # 150,000 does not fit float16


@pytest.mark.parametrize("mode", ("multiclass", "multilabel", "binary"))
@given(
    seed=seeds, size=images, dtype=dtypes, layout=layouts,
    names=st.sets(st.sampled_from(sorted(TERMS)), min_size=1),
)  # fmt: skip
def test_equals_reference(mode, seed, size, dtype, layout, names):
    x, target = problem(seed, size, 1 if mode == "binary" else CLASSES)
    if mode != "multiclass":
        target = tensor(seed + 1, *x.shape).sigmoid()
        names = names - {"cross_entropy", "softmax_focal"} or {"dice"}
    drop = ("classes",) if mode == "binary" else ()
    terms = {n: {k: v for k, v in TERMS[n].items() if k not in drop} for n in sorted(names)}
    inputs = {"logits": x, "target": target}
    sample = Sample("random", each, inputs, {"terms": terms, "mode": mode}, scale=0.1)
    assert_like_reference(sample, dtype, layout)
