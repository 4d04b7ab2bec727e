"""Costs for matching: bad input, what is not read, what is not finite, padding, dtypes."""

import itertools
import math

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss.reference.matching_cost import BOX_FORMATS, CLASS_COSTS, KINDS
from fastloss.testing import assert_matches, implementation
from fastloss.testing.samples.matching_cost import problem

NAN, INF, MAX = float("nan"), float("inf"), 3.4028234663852886e38
LOGITS, BOXES = torch.zeros(2, 3, 4), torch.rand(2, 3, 4)
GOOD = {
    "logits": LOGITS,
    "boxes": BOXES,
    "labels": torch.tensor([[0, 1], [3, 2]]),
    "target_boxes": torch.rand(2, 2, 4),
    "mask": torch.ones(2, 2, dtype=torch.bool),
}

ERRORS = [
    ({"logits": None}, TypeError, "logits must be a tensor, got NoneType"),
    ({"logits": LOGITS.long()}, TypeError, "logits must be float16.* got torch.int64"),
    ({"logits": LOGITS[0]}, ValueError, r"logits .* \(2, 3, C\) .*one class, got \(3, 4\)"),
    ({"logits": LOGITS[:, :2]}, ValueError, r"logits .* \(2, 3, C\) .*, got \(2, 2, 4\)"),
    ({"logits": LOGITS[..., :0]}, ValueError, r"at least one class, got \(2, 3, 0\)"),
    ({"logits": LOGITS.to("meta")}, ValueError, "logits must be on the device of boxes, cpu, got"),
    ({"boxes": [1.0]}, TypeError, "boxes must be a tensor, got list"),
    ({"boxes": BOXES.int()}, TypeError, "boxes must be float16.* got torch.int32"),
    ({"boxes": BOXES[0]}, ValueError, r"boxes must have shape \(B, N, 4\), got \(3, 4\)"),
    ({"boxes": BOXES[..., :3]}, ValueError, r"boxes must have .*, got \(2, 3, 3\)"),
    ({"target_boxes": BOXES[:1]}, ValueError, r"target_boxes .* \(2, M, 4\), got \(1, 3, 4\)"),
    ({"target_boxes": BOXES[0]}, ValueError, r"target_boxes .* \(2, M, 4\), got \(3, 4\)"),
    ({"target_boxes": BOXES[..., :3]}, ValueError, r"target_boxes .* 4\), got \(2, 3, 3\)"),
    ({"target_boxes": BOXES.long()}, TypeError, "target_boxes must be float16"),
    ({"target_boxes": BOXES.to("meta")}, ValueError, "target_boxes must be on the device of boxes"),
    ({"labels": None}, TypeError, "labels must be a tensor, got NoneType"),
    ({"labels": torch.zeros(2, 2)}, TypeError, "labels must be of an integer dtype, .*float32"),
    ({"labels": GOOD["mask"]}, TypeError, "labels must be of an integer dtype, got torch.bool"),
    ({"labels": GOOD["labels"][0]}, ValueError, r"labels .* \(2, 2\), got \(2,\)"),
    ({"labels": GOOD["labels"].to("meta")}, ValueError, "labels must be on the device of boxes"),
    ({"labels": GOOD["labels"] + 1}, IndexError, r"in \[0, 3\] where .*; got 4 at index 2"),
    ({"labels": GOOD["labels"] - 1}, IndexError, r"in \[0, 3\] where .*; got -1 at index 0"),
    ({"labels": GOOD["labels"] + 2**40}, IndexError, rf"got {2**40} at index 0"),
    ({"mask": GOOD["labels"]}, TypeError, "mask must be of dtype torch.bool, got torch.int64"),
    ({"mask": GOOD["mask"][:1]}, ValueError, r"mask must have shape \(2, 2\), got \(1, 2\)"),
    ({"mask": [True]}, TypeError, "mask must be a tensor, got list"),
    ({"cls_cost": "dice"}, ValueError, "cls_cost must be one of 'softmax', 'nll', .*, got 'dice'"),
    ({"iou_kind": "siou"}, ValueError, "iou_kind must be one of 'iou', .*, got 'siou'"),
    ({"iou_kind": None}, ValueError, "iou_kind must be one of .*, got None"),
    ({"box_format": "xywh"}, ValueError, "box_format must be one of 'xyxy', 'cxcywh', got 'xywh'"),
    ({"cls_weight": INF}, ValueError, "cls_weight must be finite, got inf"),
    ({"l1_weight": NAN}, ValueError, "l1_weight must be finite, got nan"),
    ({"iou_weight": 1e39}, ValueError, "iou_weight must be finite in float32, got 1e[+]39"),
    ({"iou_weight": "2"}, TypeError, "iou_weight must be a number, got str"),
    ({"gamma": -0.5}, ValueError, "gamma must be >= 0, got -0.5"),
    ({"gamma": 1e39}, ValueError, "gamma must be finite in float32, got 1e[+]39"),
    ({"alpha": -1e39}, ValueError, "alpha must be finite in float32, got -1e[+]39"),
    ({"alpha": 1.5}, ValueError, "alpha must be <= 1, got 1.5"),
    ({"alpha": NAN}, ValueError, "alpha must be finite, got nan"),
    ({"eps": -1e-7}, ValueError, "eps must be >= 0, got -1e-07"),
    ({"eps": 1e39}, ValueError, "eps must be finite in float32, got 1e[+]39"),
    ({"constant": NAN}, ValueError, "constant must be finite, got nan"),
    ({"constant": -1e39}, ValueError, "constant must be finite in float32, got -1e[+]39"),
    ({"constant": None}, TypeError, "constant must be a number, got NoneType"),
    ({"background_cost": INF}, ValueError, "background_cost must be finite, got inf"),
    ({"background_cost": torch.ones(())}, TypeError, "background_cost must be a number, got Tens"),
]  # fmt: skip

LANGUAGES = ("C++", "reference", "triton")
languages = pytest.mark.parametrize("language", LANGUAGES)
quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of Triton's interpreter


def using(language):
    """The context in which the ops run with that implementation."""
    if language == "C++":
        return fastloss.backend("auto")
    if language == "triton" and torch.cuda.is_available():
        pytest.skip("kernels would be launched on CPU tensors")
    return implementation(language)


def names(table):
    return [f"{i}-{'-'.join(map(str, changes))}" for i, (changes, *_) in enumerate(table)]


@pytest.mark.parametrize("changes,error,message", ERRORS, ids=names(ERRORS))
def test_errors(changes, error, message):
    assert F.matching_cost(**GOOD).isfinite().all()
    with pytest.raises(error, match=message):
        F.matching_cost(**{**GOOD, **changes})


def test_bad_labels_are_found_before_any_kernel():
    bad = {**GOOD, "labels": GOOD["labels"] + 1}
    for context in (fastloss.debug, lambda: fastloss.backend("reference")):
        with context(), pytest.raises(IndexError, match="got 4 at index 2"):
            F.matching_cost(**bad)
        with context():  # the bad label is padding, or not looked at
            F.matching_cost(**{**bad, "mask": bad["labels"] < 4})
            F.matching_cost(**bad, cls_weight=0.0)


@quiet
@languages
def test_a_bad_label_poisons_its_column_alone(language, triton_kernels):
    bad = {**GOOD, "labels": torch.tensor([[0, 4], [-1, 2]])}
    if language == "C++":
        with pytest.raises(IndexError, match="got 4 at index 1"):
            F.matching_cost(**bad)
        return
    for cls_cost in CLASS_COSTS:
        with using(language):
            cost, expected = (F.matching_cost(**x, cls_cost=cls_cost) for x in (bad, GOOD))
        poisoned = torch.tensor([[False, True], [True, False]])[:, None].expand_as(cost)
        assert torch.equal(cost.isnan(), poisoned)
        assert torch.equal(cost[~poisoned], expected[~poisoned])


def inputs(seed=0, dtype=torch.float32, shape=(3, 5, 9, 7)):
    made = problem(torch.Generator().manual_seed(seed), *shape)
    return {k: x.to(dtype) if x.is_floating_point() else x for k, x in made.items()}


@quiet
@languages
def test_padding_holds_anything(language, triton_kernels):
    """The same bits whatever is in padding, which may be anywhere."""
    given = inputs()
    assert (~given["mask"]).any(1).all() and given["mask"].any(1).all()
    padding = ~given["mask"]
    for cls_cost, iou_kind, bad in zip((*CLASS_COSTS, None), KINDS, (NAN, INF, 1e38, -INF)):
        other = {
            **given,
            "labels": given["labels"].masked_fill(padding, 2**40),
            "target_boxes": given["target_boxes"].masked_fill(padding[..., None], bad),
        }
        options = {"cls_cost": cls_cost, "iou_kind": iou_kind, "background_cost": 2.0}
        with using(language):
            expected, cost = (F.matching_cost(**x, **options) for x in (given, other))
        assert torch.equal(cost, expected)
        assert not cost[..., :-1].mT[padding].any() and (cost[..., -1] == 2).all()
        assert cost[..., :-1].mT[given["mask"]].all()


@languages
def test_an_image_does_not_depend_on_the_others_nor_on_padding(language, triton_kernels):
    given = inputs()
    with using(language):
        whole = F.matching_cost(**given)
        for b in range(3):
            real = given["mask"][b]
            alone = {k: x[b : b + 1] for k, x in given.items()}
            for name in ("labels", "target_boxes", "mask"):
                alone[name] = alone[name][:, real]
            assert torch.equal(F.matching_cost(**alone)[0], whole[b][:, real])
            assert torch.equal(F.matching_cost(**{**alone, "mask": None})[0], whole[b][:, real])


@quiet
@languages
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.float64), ids=str)
def test_a_pair_with_a_number_that_is_not_finite_is_not_matched(dtype, language, triton_kernels):
    """It costs 1e9; other pairs keep their cost."""
    dear = min(1e9, torch.finfo(dtype).max)
    given = {**inputs(dtype=dtype), "mask": None}
    weights = ((5, 2), (5, 0), (0, 2), (5, 2))
    cases = zip((NAN, INF, NAN, -INF), ("giou", "giou", "iou", "ciou"), 2 * BOX_FORMATS, weights)
    for bad, iou_kind, box_format, (l1, iou) in cases:
        options = {"iou_kind": iou_kind, "box_format": box_format}
        options |= {"l1_weight": l1, "iou_weight": iou}
        broken = {k: x.clone() if k != "mask" else x for k, x in given.items()}
        broken["boxes"][0, 1, 2] = broken["target_boxes"][2, 3, 1] = bad
        with using(language):
            expected, cost = (F.matching_cost(**x, **options) for x in (given, broken))
        assert (cost[0, 1] == dear).all() and (cost[2, :, 3] == dear).all()
        cost[0, 1], cost[2, :, 3] = expected[0, 1], expected[2, :, 3]
        assert_matches(cost, expected.double(), scale=1.0)


@quiet
@languages
@pytest.mark.parametrize("cls_cost", CLASS_COSTS)
def test_logits_that_are_not_finite(cls_cost, language, triton_kernels):
    """-inf is a class of probability 0."""
    given = {**inputs(), "mask": None, "logits": inputs()["logits"].clone()}
    given["labels"] = torch.arange(9).remainder(7).expand(3, 9)
    given["logits"][0, 0, 1] = NAN
    given["logits"][1, 1, 2] = INF
    given["logits"][2, 2, 3] = -INF
    given["logits"][2, 3] = -INF
    options = {"cls_cost": cls_cost, "l1_weight": 0.0, "iou_weight": 0.0}
    with using(language):
        cost = F.matching_cost(**given, **options)
    softmax = cls_cost != "sigmoid_focal"
    dear = torch.zeros(3, 5, 9, dtype=torch.bool)
    dear[0, 0] = given["labels"][0] == 1
    if softmax:
        dear[0, 0] = dear[1, 1] = dear[2, 3] = True  # the sum over classes is NaN
    own = given["labels"][2] == 3
    if cls_cost == "nll":
        dear[2, 2] = own  # -ln 0
    assert torch.equal(cost == 1e9, dear) and (cost.abs()[~dear] < 100).all()
    if cls_cost == "softmax":
        assert (cost[2, 2][own].abs() < 1e-37).all()


@quiet
@languages
@pytest.mark.parametrize("cls_cost", ("softmax", "nll"))
def test_classes_that_cannot_be(cls_cost, language, triton_kernels):
    """More of them, before the others, than a program has in its registers at a time."""
    given = {**inputs(shape=(1, 4, 6, 9)), "mask": None}
    barred = {**given, "logits": torch.cat((torch.full((1, 4, 300), -INF), given["logits"]), -1)}
    barred["labels"] = given["labels"] + 300
    with using(language):
        cost, expected = (F.matching_cost(**x, cls_cost=cls_cost) for x in (barred, given))
    torch.testing.assert_close(cost, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("classes", (1, 15, 16, 17, 40))
def test_a_row_without_any_class(classes, dtype):
    """It is not matched, nor is one with a NaN; a row of lowest numbers has equal probabilities."""
    given = {**inputs(shape=(1, 20, 3, classes), dtype=dtype), "mask": None}
    options = {"l1_weight": 0, "iou_weight": 0}
    given["logits"][0, :5] = -INF
    given["logits"][0, 5:10] = torch.finfo(dtype).min
    lost = torch.arange(10, 20)
    given["logits"][0, lost, lost % classes] = NAN
    cost = F.matching_cost(**given, **options)
    assert (cost[0, :5] == 1e9).all() and (cost[0, 10:] == 1e9).all()
    assert (cost[0, 5:10] == given["logits"].new_tensor(-1 / classes)).all()


@quiet
@languages
def test_costs_saturate(language, triton_kernels):
    given = {**inputs(shape=(1, 2, 2, 3)), "mask": None}
    far = {**given, "logits": torch.tensor([[[3e38, -3e38, 0.0], [0.0, 0.0, 0.0]]])}
    far["labels"] = torch.tensor([[0, 1]])
    huge = {**given, "boxes": torch.tensor([[[-MAX, -MAX, MAX, MAX], [0.0, 0.0, 1.0, 1.0]]])}
    with using(language):
        nll = F.matching_cost(**far, cls_cost="nll", cls_weight=-2.0, l1_weight=0, iou_weight=0)
        assert nll[0, 0].tolist() == [0.0, -MAX]
        for iou_kind in KINDS:
            cost = F.matching_cost(**huge, iou_kind=iou_kind)
            assert (cost[0, 0] == MAX).all() and (cost[0, 1].abs() < 100).all()
            cost = F.matching_cost(**huge, iou_kind=iou_kind, l1_weight=0)
            assert (cost.abs() < 4).all()  # proper boxes of any size have an IoU
        for dtype in (torch.float16, torch.bfloat16):
            half = {k: x.to(dtype) if k in ("logits", "boxes", "target_boxes") else x
                    for k, x in given.items()}  # fmt: skip
            for weight in (1e38, -1e38):
                options = {"l1_weight": weight, "background_cost": weight}
                cost = F.matching_cost(**half, **options)
                largest = torch.finfo(dtype).max
                expected = weight if dtype == torch.bfloat16 else largest * weight / abs(weight)
                assert cost[..., 2].float().allclose(torch.tensor(expected), rtol=0.01)
                assert cost.isfinite().all() and (cost[0, :, :2].abs() > 65000).all()
        for weight in (1e300, -1e300):
            cost = F.matching_cost(**given, background_cost=weight)
            assert (cost[..., 2] == math.copysign(MAX, weight)).all()


@quiet
@languages
def test_every_step_saturates(language, triton_kernels):
    """Each term before they are added, what the boxes cost before the class, and before its weight
    a distance or -ln p."""
    box = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]])
    inverted = torch.tensor([[[12.0, 9.0, 2.0, 3.0]]])  # the hull has no area
    large = torch.tensor([[[1e12, 1e12, -1e12, -1e12]]])  # nor here, by which 4e24 is divided
    unlikely = torch.tensor([[[3e38, -3e38]]]), torch.tensor([[1]])  # with the weight, MAX
    cases = (
        (inverted, inverted + 1, {"l1_weight": MAX, "iou_weight": MAX, "cls_cost": None}),
        (large, large, {"l1_weight": 0, "iou_weight": 1e12}),
        (box, box * 0.75, {"l1_weight": -MAX, "iou_weight": MAX}),
        (box, box * 0.75, {"l1_weight": -MAX, "iou_weight": 0, "cls_cost": "sigmoid_focal"}),
    )
    with using(language):
        for first, second, options in cases:
            options = {"cls_cost": "nll", "cls_weight": MAX, **options}
            cost = F.matching_cost(unlikely[0], first, unlikely[1], second, None, **options)
            assert cost == 0
        options = {"l1_weight": 2.0**-60, "iou_weight": 0, "cls_cost": None}
        wide = torch.tensor([[[-MAX, -MAX, MAX, MAX]]])
        assert F.matching_cost(None, wide, None, box, None, **options) == MAX * 2.0**-60
        options = {"l1_weight": 0, "iou_weight": 0, "cls_weight": 2.0**-60, "cls_cost": "nll"}
        cost = F.matching_cost(unlikely[0], box, unlikely[1], box, None, **options)
        assert cost == MAX * 2.0**-60


@quiet
@languages
@pytest.mark.parametrize("cls_cost", (*CLASS_COSTS, None))
def test_a_constant_is_in_the_cost_of_real_pairs_alone(cls_cost, language, triton_kernels):
    given = inputs()
    given["boxes"][0, 1] = NAN
    options = {"cls_cost": cls_cost, "background_cost": 3.0}
    with using(language):
        bare, cost = (F.matching_cost(**given, **options, constant=c) for c in (0.0, 2.5))
        low, high = (F.matching_cost(**given, **options, constant=c) for c in (-MAX, MAX))
    real = given["mask"][:, None].expand(3, 5, 9)
    assert (cost[..., 9] == 3).all() and not cost[..., :9][~real].any()
    assert (cost[0, 1, :9][real[0, 1]] == 1e9).all() and (low[0, 1, :9][real[0, 1]] == 1e9).all()
    real = real & (bare[..., :9] != 1e9)
    torch.testing.assert_close(cost[..., :9][real], bare[..., :9][real] + 2.5, rtol=1e-6, atol=2e-6)
    assert (low[..., :9][real] == -MAX).all() and (high[..., :9][real] == MAX).all()


@quiet
@languages
def test_what_has_no_weight_is_not_read(language, triton_kernels):
    given = {**inputs(), "mask": None}
    nan = {k: torch.full_like(x, NAN) for k, x in given.items() if k in ("boxes", "target_boxes")}
    bad = {"logits": given["logits"] * NAN, "labels": given["labels"] + 100}
    with using(language):
        for cls_cost in CLASS_COSTS:
            alone = {"cls_cost": cls_cost, "l1_weight": 0, "iou_weight": 0.0}
            expected = F.matching_cost(**given, **alone)
            assert torch.equal(F.matching_cost(**{**given, **nan}, **alone), expected)
        boxes = F.matching_cost(**given, cls_weight=0)
        assert torch.equal(F.matching_cost(**{**given, **bad}, cls_weight=0), boxes)
        for absent in (bad, {"logits": None, "labels": None}, {"logits": "x", "labels": 3}):
            assert torch.equal(F.matching_cost(**{**given, **absent}, cls_cost=None), boxes)
        nothing = F.matching_cost(
            **{**given, **nan, **bad}, cls_weight=0, l1_weight=0, iou_weight=0
        )
        assert not nothing.any()


@quiet
@languages
@pytest.mark.parametrize("eps", (1e-7, 0.0, 1e-30, 1e-18, 1e-2, 1e25))
@pytest.mark.parametrize("iou_kind", KINDS)
def test_iou_is_that_of_pairwise_iou(iou_kind, eps, language, triton_kernels):
    g = torch.Generator().manual_seed(3)
    boxes = torch.randn(2, 40, 4, generator=g)
    boxes[..., 2:] = boxes[..., :2] + 3 * boxes[..., 2:].abs()
    boxes[:, ::7, 2:] = boxes[:, ::7, :2]  # zero area
    boxes[:, 5::8] = boxes[:, 5::8].roll(2, -1)  # inverted
    boxes[0, ::5] *= 1e25
    boxes[1, 3] = boxes[1, 30]
    a, b = boxes[:, :23], boxes[:, 20:]
    options = {"cls_cost": None, "l1_weight": 0, "iou_weight": -1, "iou_kind": iou_kind, "eps": eps}
    with using(language):
        cost = F.matching_cost(None, a, None, b, None, **options)
    expected = F.pairwise_iou(a, b, kind=iou_kind, eps=eps)
    torch.testing.assert_close(cost, expected, rtol=1e-5, atol=1e-5)


def test_dtypes_and_layouts():
    given = inputs()
    for name, dtype in itertools.product(("logits", "boxes", "target_boxes"), (torch.float64,)):
        assert F.matching_cost(**{**given, name: given[name].to(dtype)}).dtype == dtype
    half = inputs(dtype=torch.bfloat16)
    assert F.matching_cost(**half).dtype == torch.bfloat16
    mixed = F.matching_cost(**{**half, "target_boxes": half["target_boxes"].float()})
    assert mixed.dtype == torch.float32
    wide = {k: x.float() if x.is_floating_point() else x for k, x in half.items()}
    assert torch.equal(mixed, F.matching_cost(**wide))  # nothing is rounded on the way
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(F.matching_cost(**half), mixed)
        assert F.matching_cost(**inputs(dtype=torch.float64)).dtype == torch.float64
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16):
        labels = given["labels"].to(dtype)
        assert torch.equal(F.matching_cost(**{**given, "labels": labels}), F.matching_cost(**given))
    assert not F.matching_cost(**{**given, "boxes": given["boxes"].requires_grad_()}).requires_grad
