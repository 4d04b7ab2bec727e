"""Losses of matched predictions: numbers that are not finite, huge or tiny, and labels that are no
class."""

import math

import pytest
import torch
from matched_cases import inputs, languages, quiet, run, same, using

import fastloss.functional as F
from fastloss.reference.matched_detection import CLASS_LOSSES, IOU_KINDS

NAN, INF = math.nan, math.inf
FOCAL = {"cls_loss": "sigmoid_focal"}


@quiet
@languages
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
@pytest.mark.parametrize("label", (-1, 8, 2**40))
def test_a_bad_label_poisons_the_predictions_that_are_matched_with_it(
    label, cls_loss, language, triton_kernels
):
    given = {**inputs(), "mask": None}
    given["labels"][1, 4] = label
    given["matching"][1, :, 4] = torch.tensor([0.5, 1e-3, 0, 0, 0])
    if language == "C++":
        with pytest.raises(IndexError, match=f"got {label} at index 13"):
            F.matched_detection(**given, cls_loss=cls_loss)
        return
    poisoned = torch.zeros(3, 5, dtype=torch.bool)
    poisoned[1, :2] = True
    weights = (None,) if cls_loss == "sigmoid_focal" else (None, torch.ones(7))
    for weight in weights:
        with using(language):
            loss, g_logits, _ = run(given, cls_loss=cls_loss, class_weight=weight)
        assert torch.equal(loss.isnan(), poisoned)
        assert torch.equal(g_logits.isnan(), poisoned[..., None].expand_as(g_logits))


@quiet
@languages
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_what_has_no_mass_holds_anything(cls_loss, language, triton_kernels):
    """The same bits whatever is in padding, which may be anywhere, or where masses are 0."""
    given = inputs()
    padding = ~given["mask"]
    assert padding.any(1).all() and given["mask"].any(1).all()
    given["labels"][:, 0], given["matching"][..., 0] = 0, 0
    given["matching"][:, 3] = 0
    for bad, iou_kind in zip((NAN, INF, 1e38, -INF), IOU_KINDS):
        other = {
            **given,
            "labels": given["labels"].masked_fill(padding, 2**40),
            "target_boxes": given["target_boxes"].masked_fill(padding[..., None], bad),
            "matching": given["matching"].clone(),
            "logits": given["logits"].clone(),
            "boxes": given["boxes"].clone(),
        }
        other["target_boxes"][:, 0], other["logits"][:, 3], other["boxes"][:, 3] = bad, bad, bad
        other["matching"][..., :-1].masked_fill_(padding[:, None], bad)
        other["matching"][:, 3] = 0
        with using(language):
            expected = run(given, cls_loss=cls_loss, iou_kind=iou_kind)
            results = run(other, cls_loss=cls_loss, iou_kind=iou_kind)
        assert same(results, expected)
        assert not any(x[:, 3].any() for x in results)
        assert all(x.isfinite().all() for x in results)


@quiet
@languages
@pytest.mark.parametrize("bad", (NAN, INF, -INF))
def test_a_number_that_is_not_finite_stays_where_it_matters(bad, language, triton_kernels):
    given = {**inputs(), "mask": None}
    given["matching"][2, :, 3] = torch.tensor([0.5, 0, 0, 0, 0])
    broken = {k: x.clone() for k, x in given.items() if x is not None} | {"mask": None}
    broken["boxes"][0, 1, 2] = broken["target_boxes"][2, 3, 1] = bad
    lost = torch.zeros(3, 5, dtype=torch.bool)
    lost[0, 1] = lost[2, 0] = True
    weights = ((5, 2), (5, 0), (0, 2), (0, 0))
    with using(language):
        for iou_kind, (distance_weight, iou_weight) in zip(IOU_KINDS, weights):
            options = {"iou_kind": iou_kind, "distance_weight": distance_weight}
            options["iou_weight"] = iou_weight
            found, expected = run(broken, **options), run(given, **options)
            assert torch.equal(found[1], expected[1])  # of the logits
            for x, y in zip(found[::2], expected[::2]):
                assert x[lost].isnan().all() and torch.equal(x[~lost], y[~lost])


@quiet
@languages
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES[:2])
def test_classes_that_cannot_be(cls_loss, language, triton_kernels):
    """More of them, before the others, than a program has in its registers at a time."""
    given = {**inputs(shape=(1, 4, 6, 9)), "mask": None}
    barred = {**given, "logits": torch.cat((torch.full((1, 4, 300), -INF), given["logits"]), -1)}
    barred["labels"] = given["labels"] + 300
    with using(language):
        expected = run(given, cls_loss=cls_loss)
        loss, g_logits, g_boxes = run(barred, cls_loss=cls_loss, background=300)
    assert (g_logits[..., :300].abs() < 1e-37).all()
    for x, y in zip((loss, g_logits[..., 300:], g_boxes), expected):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@quiet
@languages
def test_masses_of_other_classes_do_not_cancel(language, triton_kernels):
    """The focal loss of a wrong class is what a tiny mass has, beside a large one at the class."""
    logits = torch.tensor([[[30.0, 40.0]]]).repeat(1, 2, 1)
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).repeat(1, 2, 1)
    given = {"logits": logits, "boxes": boxes, "labels": torch.tensor([[1, 0]])}
    given |= {"target_boxes": boxes, "mask": None}
    given["matching"] = torch.tensor([[[1.0, 1e-9, 0.0], [1e9, 1.0, 0.0]]])
    options = {**FOCAL, "distance_weight": 0, "iou_weight": 0, "gamma": 0}
    with using(language):
        loss, gradient, _ = run(given, **options)
    wrong = torch.tensor([[[1.0, 1e-9], [1e9, 1.0]]])
    torch.testing.assert_close(gradient, wrong, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss, (wrong * logits).sum(-1), rtol=1e-6, atol=0)


@quiet
@languages
@pytest.mark.parametrize("bad", (NAN, INF))
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES[:2])
def test_the_weight_of_a_class_without_mass_may_be_anything(
    cls_loss, bad, language, triton_kernels
):
    """That of the background too."""
    given = {**inputs(shape=(1, 4, 3, 5)), "labels": torch.tensor([[1, 3, 1]]), "mask": None}
    given["matching"][..., 1] = given["matching"][..., -1] = 0
    weight = torch.tensor([2.0, 0.5, 1.0, 1.0, 1.0])
    with using(language):
        for background, class_without_mass in ((0, 0), (0, 2), (0, 3), (2, 4)):
            odd = weight.clone()
            odd[class_without_mass] = bad
            options = {"cls_loss": cls_loss, "background": background}
            expected = run(given, class_weight=weight, **options)
            assert same(run(given, class_weight=odd, **options), expected)
            assert all(x.isfinite().all() for x in expected)


@quiet
@languages
@pytest.mark.parametrize("x", (1e38, INF))
@pytest.mark.parametrize("gamma", (2.0, 0.5))
def test_focal_losses_of_logits_without_bounds(gamma, x, language, triton_kernels):
    """What is right costs nothing; gradients of what is wrong are those of cross entropy."""
    logits = torch.tensor([[[-x, x, 0.0], [-x, x, 0.0], [-x, -x, 0.0]]])
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).repeat(1, 3, 1)
    given = {"logits": logits, "boxes": boxes, "labels": torch.tensor([[1, 0]])}
    given |= {"target_boxes": boxes[:, :2], "mask": None}
    given["matching"] = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]])
    with using(language):
        loss, gradient, _ = run(given, **FOCAL, gamma=gamma)
        middle = run({**given, "logits": logits * 0}, **FOCAL, gamma=gamma)[1]
    n = math.log(2) * 0.5**gamma
    torch.testing.assert_close(loss, torch.tensor([[n, 2 * x + n if x < INF else INF, n]]))
    assert gradient[0, :, :2].tolist() == [[0, 0], [-1, 1], [0, 0]]
    assert torch.equal(gradient[..., 2], middle[..., 2])


@quiet
@languages
@pytest.mark.parametrize("weights", ((5, 0), (0, 2), (0, 0)))
def test_what_no_gradient_comes_to_has_none(weights, language, triton_kernels):
    """Whatever the boxes and logits hold."""
    given = {**inputs(), "mask": None}
    broken = {k: x.clone() for k, x in given.items() if x is not None} | {"mask": None}
    broken["boxes"][:, 1, 2] = broken["logits"][:, 1, 0] = NAN
    broken["target_boxes"][:, 2, 1] = NAN
    given["matching"][:, 0, 2] = broken["matching"][:, 0, 2] = 0
    incoming = torch.tensor([2.0, 0, 0, 0, 0])
    options = {"incoming": incoming, "distance_weight": weights[0], "iou_weight": weights[1]}
    with using(language):
        expected, found = run(given, **options)[1:], run(broken, **options)[1:]
    assert same(found, expected) and not any(x[:, 1:].any() for x in found)


@quiet
@languages
@pytest.mark.parametrize("iou_kind", IOU_KINDS)
def test_boxes_of_any_size(iou_kind, language, triton_kernels):
    """Similarities do not depend on the unit, which may be so small that areas overflow."""
    given, unit = inputs(), 2.0**80
    large = {**given, "boxes": given["boxes"] * unit, "target_boxes": given["target_boxes"] * unit}
    with using(language):
        expected, found = (run(x, iou_kind=iou_kind, distance_weight=0) for x in (given, large))
    assert expected[2].any()
    for x, y in zip((*found[:2], found[2] * unit), expected):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@quiet
@languages
@pytest.mark.parametrize("eps", (0.0, 1e-7, 1e30))
@pytest.mark.parametrize("iou_kind", IOU_KINDS)
def test_float_is_like_double(iou_kind, eps, language, triton_kernels):
    """Of boxes that are tiny, inverted or much smaller than the others: none of these, or some of
    the predictions, or of the targets."""
    given = {**inputs(shape=(1, 6, 5, 3)), "mask": None}
    inverted, factors = torch.tensor([2, 1, 0, 3]), (2.0**-24, 2.0**40)
    cases = [{}, {name: given[name] * factors[0] for name in ("boxes", "target_boxes")}]
    for name in ("boxes", "target_boxes"):
        cases += [{name: given[name][..., inverted] * 2}, {name: given[name] * factors[1]}]
    for changes in cases:
        case = {**given, **changes}
        double = {k: x.double() if k != "labels" and x is not None else x for k, x in case.items()}
        with using(language):
            found, expected = (run(x, iou_kind=iou_kind, eps=eps) for x in (case, double))
        for x, y in zip(found, expected):
            largest = y.abs().amax().item()
            torch.testing.assert_close(x, y.float(), rtol=1e-3, atol=1e-5 * largest)


@quiet
@languages
@pytest.mark.parametrize("distance", ("l1", "mse"))
@pytest.mark.parametrize("iou_kind", IOU_KINDS)
def test_pairs_without_mass_may_overflow(iou_kind, distance, language, triton_kernels):
    """Also in double."""
    given = {**inputs(dtype=torch.float64, shape=(1, 4, 3, 5)), "mask": None}
    given["matching"][0, 0] = torch.tensor([0, 0, 0.5, 0.5])
    given["matching"][0, 1:] = torch.tensor([0.25, 0.25, 0, 0.5])
    other = {**given, "target_boxes": given["target_boxes"].clone()}
    other["boxes"] = given["boxes"].clone()
    far = torch.tensor([1.6e308, 1.6e308, 1.7e308, 1.7e308], dtype=torch.float64)
    other["boxes"][0, 0], other["target_boxes"][0, 2] = -far[[2, 3, 0, 1]], far
    with using(language):
        expected = run(given, iou_kind=iou_kind, distance=distance)
        found = run(other, iou_kind=iou_kind, distance=distance)
    for x, y in zip(found, expected):
        assert torch.equal(x[:, 1:], y[:, 1:])
