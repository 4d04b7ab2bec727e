"""Losses of matched predictions: bad input, what is asked for, dtypes and layouts."""

import math

import pytest
import torch
from matched_cases import inputs, languages, quiet, run, same, using

import fastloss
import fastloss.functional as F
from fastloss.reference.matched_detection import CLASS_LOSSES

NAN, INF = math.nan, math.inf
LOGITS, BOXES = torch.zeros(2, 3, 4), torch.rand(2, 3, 4)
TARGETS, MATCHING = torch.rand(2, 2, 4), torch.full((2, 3, 3), 0.25)
GOOD = {
    "logits": LOGITS,
    "boxes": BOXES,
    "labels": torch.tensor([[0, 1], [3, 2]]),
    "target_boxes": TARGETS,
    "matching": MATCHING,
    "mask": torch.ones(2, 2, dtype=torch.bool),
}
FOCAL = {"cls_loss": "sigmoid_focal"}

ERRORS = [
    ({"logits": None}, TypeError, "logits must be a tensor, got NoneType"),
    ({"logits": LOGITS.long()}, TypeError, "logits must be float16.* got torch.int64"),
    ({"logits": LOGITS[0]}, ValueError, r"logits .* \(B, N, C\) .*one class, got \(3, 4\)"),
    ({"logits": LOGITS[..., :0]}, ValueError, r"at least one class, got \(2, 3, 0\)"),
    ({"boxes": None}, TypeError, "boxes must be a tensor, got NoneType"),
    ({"boxes": BOXES.int()}, TypeError, "boxes must be float16.* got torch.int32"),
    ({"boxes": BOXES[0]}, ValueError, r"boxes must have shape \(2, 3, 4\), got \(3, 4\)"),
    ({"boxes": BOXES[..., :3]}, ValueError, r"boxes must have .*, got \(2, 3, 3\)"),
    ({"boxes": BOXES[:, :2]}, ValueError, r"boxes must have shape \(2, 3, 4\), got \(2, 2, 4\)"),
    ({"boxes": BOXES.to("meta")}, ValueError, "boxes must be on the device of logits, cpu, got"),
    ({"target_boxes": [1.0]}, TypeError, "target_boxes must be a tensor, got list"),
    ({"target_boxes": TARGETS.long()}, TypeError, "target_boxes must be float16"),
    ({"target_boxes": TARGETS[:1]}, ValueError, r"target_boxes .* \(2, M, 4\), got \(1, 2, 4\)"),
    ({"target_boxes": TARGETS[0]}, ValueError, r"target_boxes .* \(2, M, 4\), got \(2, 4\)"),
    ({"target_boxes": TARGETS[..., :3]}, ValueError, r"target_boxes .*, got \(2, 2, 3\)"),
    ({"target_boxes": TARGETS.to("meta")}, ValueError, "target_boxes must be on the device of b"),
    ({"target_boxes": TARGETS.clone().requires_grad_()}, ValueError, "target_boxes has no gradie"),
    ({"labels": None}, TypeError, "labels must be a tensor, got NoneType"),
    ({"labels": torch.zeros(2, 2)}, TypeError, "labels must be of an integer dtype, .*float32"),
    ({"labels": GOOD["mask"]}, TypeError, "labels must be of an integer dtype, got torch.bool"),
    ({"labels": GOOD["labels"][0]}, ValueError, r"labels .* \(2, 2\), got \(2,\)"),
    ({"labels": GOOD["labels"].to("meta")}, ValueError, "labels must be on the device of boxes"),
    ({"labels": GOOD["labels"] + 1}, IndexError, r"in \[0, 3\] where .*; got 4 at index 2"),
    ({"labels": GOOD["labels"] - 1}, IndexError, r"in \[0, 3\] where .*; got -1 at index 0"),
    ({"labels": GOOD["labels"] + 2**40}, IndexError, rf"got {2**40} at index 0"),
    ({"labels": GOOD["labels"] + 2, **FOCAL}, IndexError, r"in \[0, 4\] .*; got 5 at index 2"),
    ({"matching": None}, TypeError, "matching must be a tensor, got NoneType"),
    ({"matching": MATCHING.long()}, TypeError, "matching must be float16.* got torch.int64"),
    ({"matching": MATCHING[..., :2]}, ValueError, r"\(2, 3, 3\), the last .*, got \(2, 3, 2\)"),
    ({"matching": MATCHING.mT[:, :2]}, ValueError, r"matching .* \(2, 3, 3\).* \(2, 2, 3\)"),
    ({"matching": MATCHING.to("meta")}, ValueError, "matching must be on the device of boxes"),
    ({"matching": MATCHING.clone().requires_grad_()}, ValueError, r"pass matching.detach\(\)"),
    ({"mask": GOOD["labels"]}, TypeError, "mask must be of dtype torch.bool, got torch.int64"),
    ({"mask": GOOD["mask"][:1]}, ValueError, r"mask must have shape \(2, 2\), got \(1, 2\)"),
    ({"mask": GOOD["mask"].to("meta")}, ValueError, "mask must be on the device of boxes"),
    ({"mask": [True]}, TypeError, "mask must be a tensor, got list"),
    ({"cls_loss": "dice"}, ValueError, "cls_loss must be one of 'cross_entropy', .*, got 'dice'"),
    ({"cls_loss": None}, ValueError, "cls_loss must be one of .*, got None"),
    ({"cls_weight": -1}, ValueError, "cls_weight must be >= 0, got -1"),
    ({"cls_weight": None}, TypeError, "cls_weight must be a number, got NoneType"),
    ({"class_weight": 1.0}, TypeError, "class_weight must be a tensor or numbers, got float"),
    ({"class_weight": [1.0] * 3}, ValueError, r"class_weight .* shape \(4,\), got \(3,\)"),
    ({"class_weight": [1.0, NAN, 1.0, 1.0]}, ValueError, r"class_weight\[1\] must be finite"),
    ({"class_weight": torch.ones(4).long()}, TypeError, "class_weight must be float16"),
    ({"class_weight": torch.ones(4, requires_grad=True)}, ValueError, "class_weight has no grad"),
    ({"class_weight": [1.0] * 4, **FOCAL}, ValueError, "class_weight is for the losses of a soft"),
    ({"background": 4}, ValueError, r"background must be in \[-4, 4\), got 4"),
    ({"background": -5}, ValueError, r"background must be in \[-4, 4\), got -5"),
    ({"background": 1.0}, TypeError, "background must be an integer, got float"),
    ({"background": True}, TypeError, "background must be an integer, got bool"),
    ({"alpha": 1.5, **FOCAL}, ValueError, "alpha must be <= 1, got 1.5"),
    ({"alpha": NAN, **FOCAL}, ValueError, "alpha must be finite, got nan"),
    ({"alpha": "1"}, TypeError, "alpha must be a number, got str"),
    ({"gamma": -0.5, **FOCAL}, ValueError, "gamma must be >= 0, got -0.5"),
    ({"gamma": INF}, ValueError, "gamma must be finite, got inf"),
    ({"distance": "l2"}, ValueError, "distance must be one of 'l1', 'smooth_l1', 'mse', got 'l2'"),
    ({"beta": 0.0}, ValueError, "beta must be > 0, got 0.0"),
    ({"beta": NAN}, ValueError, "beta must be finite, got nan"),
    ({"distance_weight": INF}, ValueError, "distance_weight must be finite, got inf"),
    ({"distance_weight": torch.ones(())}, TypeError, "distance_weight must be a number, got Ten"),
    ({"iou_kind": "siou"}, ValueError, "iou_kind must be one of 'iou', .*, got 'siou'"),
    ({"iou_weight": "2"}, TypeError, "iou_weight must be a number, got str"),
    ({"iou_weight": NAN}, ValueError, "iou_weight must be finite, got nan"),
    ({"eps": -1e-9}, ValueError, "eps must be >= 0, got -1e-09"),
    ({"neg_to_pos_ratio": -1}, ValueError, "neg_to_pos_ratio must be >= 0, got -1"),
    ({"neg_to_pos_ratio": INF}, ValueError, "neg_to_pos_ratio must be finite, got inf"),
    ({"neg_to_pos_ratio": "3"}, TypeError, "neg_to_pos_ratio must be a number, got str"),
    ({"reduction": "avg"}, ValueError, "reduction must be one of 'none', .*, got 'avg'"),
]  # fmt: skip


def names(table):
    return [f"{i}-{'-'.join(map(str, changes))}" for i, (changes, *_) in enumerate(table)]


@pytest.mark.parametrize("changes,error,message", ERRORS, ids=names(ERRORS))
def test_errors(changes, error, message):
    assert F.matched_detection(**GOOD).isfinite()
    with pytest.raises(error, match=message):
        F.matched_detection(**{**GOOD, **changes})


def test_bad_labels_are_found_before_any_kernel():
    bad = {**GOOD, "labels": GOOD["labels"] + 1}
    for context in (fastloss.debug, lambda: fastloss.backend("reference")):
        with context(), pytest.raises(IndexError, match="got 4 at index 2"):
            F.matched_detection(**bad)
        with context():  # the bad label is padding, or no class
            F.matched_detection(**{**bad, "mask": bad["labels"] < 4})
            F.matched_detection(**bad, **FOCAL)


def test_whatever_is_wrong_elsewhere_there_is_a_gradient_for_what_is_asked():
    """To logits or boxes alone, the same as to both."""
    given = inputs()
    expected = run(given)[1:]
    for name, gradient in zip(("logits", "boxes"), expected):
        x = given[name].clone().requires_grad_()
        loss = F.matched_detection(**{**given, name: x}, reduction="none")
        assert torch.equal(torch.autograd.grad(loss.sum(), x)[0], gradient)


@quiet
@languages
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_an_image_does_not_depend_on_the_others(cls_loss, language, triton_kernels):
    """Nor on its padding; but for rounding, as the order of sums may change."""
    given = inputs()
    with using(language):
        whole = run(given, cls_loss=cls_loss)
        for b in range(3):
            one = {k: x[b : b + 1] for k, x in given.items()}
            assert same(run(one, cls_loss=cls_loss), [x[b : b + 1] for x in whole])
            real = torch.cat((given["mask"][b], torch.tensor([True])))
            for name in ("labels", "target_boxes"):
                one[name] = one[name][:, real[:-1]]
            one |= {"matching": one["matching"][..., real], "mask": None}
            for x, y in zip(run(one, cls_loss=cls_loss), whole):
                torch.testing.assert_close(x[0], y[b], rtol=2e-6, atol=2e-6)


@languages
@pytest.mark.parametrize("shape", ((0, 3, 2, 4), (2, 0, 2, 4), (2, 3, 0, 4), (2, 3, 2, 1)))
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_nothing_to_match(cls_loss, shape, language, triton_kernels):
    given = inputs(shape=shape)
    with using(language):
        for ratio in (None, 3.0):
            for reduction in ("none", "mean", "sum"):
                options = {"reduction": reduction, "neg_to_pos_ratio": ratio}
                loss = F.matched_detection(**given, cls_loss=cls_loss, **options)
                assert loss.shape == (shape[:2] if reduction == "none" else ())
                assert loss.isfinite().all()
        loss, g_logits, g_boxes = run(given, cls_loss=cls_loss)
        if shape[2] == 0:  # the background alone
            assert not g_boxes.any() and loss.all() and g_logits.any()


def test_dtypes_and_layouts():
    given = inputs()
    for name in ("logits", "boxes"):
        loss = F.matched_detection(**{**given, name: given[name].double()})
        assert loss.dtype == torch.float64
    constants = {k: given[k].double() for k in ("target_boxes", "matching")}
    assert F.matched_detection(**{**given, **constants}).dtype == torch.float32
    for name, x in constants.items():
        torch.testing.assert_close(
            F.matched_detection(**{**given, name: x}), F.matched_detection(**given)
        )
    half = inputs(dtype=torch.bfloat16)
    loss, *gradients = run(half)
    assert {x.dtype for x in (loss, *gradients)} == {torch.bfloat16}
    wide = {k: x.float() if x.is_floating_point() else x for k, x in half.items()}
    expected = run(wide)
    assert torch.equal(loss, expected[0].bfloat16())  # nothing is rounded on the way
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = run(half)
        assert torch.equal(under[0], expected[0]) and under[1].dtype == torch.bfloat16
        assert F.matched_detection(**inputs(dtype=torch.float64)).dtype == torch.float64
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16):
        other = {**given, "labels": given["labels"].to(dtype)}
        assert torch.equal(F.matched_detection(**other), F.matched_detection(**given))


@quiet
@languages
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_any_strides(cls_loss, language, triton_kernels):
    """Also those of classes before predictions, and of a plan that is transposed."""
    given = inputs()
    strided = {
        **given,
        "logits": given["logits"].mT.contiguous().mT,
        "boxes": given["boxes"].mT.contiguous().mT,
        "matching": given["matching"].transpose(0, 2).contiguous().transpose(0, 2),
        "labels": given["labels"].mT.contiguous().mT,
        "mask": given["mask"].mT.contiguous().mT,
        "target_boxes": given["target_boxes"].repeat(1, 1, 2)[..., :4],
    }
    weight = None
    if cls_loss != "sigmoid_focal":
        weight = torch.rand(7, 2)[:, 0]
    with using(language):
        expected = run(given, cls_loss=cls_loss, class_weight=weight)
        results = run(strided, cls_loss=cls_loss, class_weight=weight)
    for x, y in zip(results, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ratio", (None, 3.0))
@pytest.mark.parametrize("cls_loss", CLASS_LOSSES)
def test_compiles_to_one_graph(cls_loss, ratio):
    given = inputs()

    def loss(logits, boxes):
        changed = {**given, "logits": logits, "boxes": boxes}
        return F.matched_detection(**changed, cls_loss=cls_loss, neg_to_pos_ratio=ratio)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    results = []
    for function in (loss, compiled):
        wanted = [given[name].clone().requires_grad_() for name in ("logits", "boxes")]
        value = function(*wanted)
        results.append((value, *torch.autograd.grad(value, wanted)))
    for x, y in zip(*results):
        torch.testing.assert_close(x, y)
