"""Max-IoU assignment: bad input, dtypes, layouts of the images, memory."""

import pytest
import torch

import fastloss
import fastloss.functional as F
from bench.memory import peak_bytes
from fastloss.testing import implementation

BOXES = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [8.0, 8.0, 9.0, 9.0]]] * 2)
GOOD = {"boxes": BOXES, "target_boxes": BOXES[:, :2] + 0.25, "mask": torch.ones(2, 2) > 0}
NAN, INF = float("nan"), float("inf")

ERRORS = [
    ({"boxes": None}, TypeError, "boxes must be a tensor, got NoneType"),
    ({"boxes": BOXES.long()}, TypeError, "^boxes must be float16.* got torch.int64"),
    ({"boxes": BOXES[0, 0]}, ValueError, r"boxes must have shape \(B, N, 4\) or .* got \(4,\)"),
    ({"boxes": BOXES[None]}, ValueError, r"boxes must have shape .* got \(1, 2, 3, 4\)"),
    ({"boxes": BOXES[..., :3]}, ValueError, r"boxes must have shape .* got \(2, 3, 3\)"),
    ({"target_boxes": None}, TypeError, "target_boxes must be a tensor, got NoneType"),
    ({"target_boxes": BOXES.int()}, TypeError, "target_boxes must be float16.* got torch.int32"),
    ({"target_boxes": BOXES[0]}, ValueError, r"target_boxes .* \(B, M, 4\), got \(3, 4\)"),
    ({"target_boxes": BOXES[..., :2]}, ValueError, r"target_boxes .* got \(2, 3, 2\)"),
    ({"target_boxes": BOXES.to("meta")}, ValueError, "target_boxes must be on the device of boxes"),
    ({"target_boxes": BOXES[:1]}, ValueError, "the batch size of boxes, 2, got 1"),
    ({"mask": torch.ones(2, 2)}, TypeError, "mask must be of dtype torch.bool, got torch.float32"),
    ({"mask": GOOD["mask"][:1]}, ValueError, r"mask must have shape \(2, 2\), got \(1, 2\)"),
    ({"mask": GOOD["mask"].to("meta")}, ValueError, "mask must be on the device of boxes, cpu"),
    ({"mask": [True]}, TypeError, "mask must be a tensor, got list"),
    ({"positive": 0.3}, ValueError, "positive must be at least negative, 0.4, got 0.3"),
    ({"positive": INF}, ValueError, "positive must be finite, got inf"),
    ({"negative": NAN}, ValueError, "negative must be finite, got nan"),
    ({"negative": (0.1, 0.4)}, TypeError, "negative must be a number, got tuple"),
    ({"min_positive": -INF}, ValueError, "min_positive must be finite, got -inf"),
    ({"min_positive": torch.ones(())}, TypeError, "min_positive must be a number, got Tensor"),
    ({"low_quality": 1}, TypeError, "low_quality must be True or False, got int"),
    ({"low_quality_index": "gt"}, ValueError, "index must be one of 'target', 'box', got 'gt'"),
    ({"low_quality_index": None}, ValueError, "low_quality_index must be one of .*, got None"),
    ({"eps": -1e-9}, ValueError, "eps must be >= 0, got -1e-09"),
    ({"eps": "0"}, TypeError, "eps must be a number, got str"),
]  # fmt: skip


@pytest.mark.parametrize("changes,error,message", ERRORS, ids=[str(list(c)) for c, *_ in ERRORS])
def test_error(changes, error, message):
    F.iou_match(**GOOD)
    with pytest.raises(error, match=message):
        F.iou_match(**{**GOOD, **changes})


def test_nothing_has_a_gradient():
    boxes = BOXES.clone().requires_grad_()
    for result in F.iou_match(boxes, boxes * 2):
        assert not result.requires_grad


def test_equal_thresholds_leave_nothing_ignored():
    index, _ = F.iou_match(**GOOD, positive=0.4, low_quality=False)
    assert index.tolist() == [[0, 1, -1]] * 2


@pytest.mark.parametrize("language", ("C++", "reference"))
def test_half_precision_is_compared_in_float32(language):
    """IoU 0.50006, which float16 rounds to 0.5: only 0.5 itself is below the threshold."""
    boxes = torch.tensor([[0, 0, 100, 50], [0, 0, 81.1875, 61.59375]]).half()
    target = torch.tensor([[[0, 0, 100, 100]]]).half()
    if language == "C++":
        index, iou = F.iou_match(boxes, target, positive=0.50003, low_quality=False)
    else:
        with implementation(language):
            index, iou = F.iou_match(boxes, target, positive=0.50003, low_quality=False)
    assert index.tolist() == [[-2, 0]]
    assert iou.dtype == torch.float16 and iou.tolist() == [[0.5, 0.5]]


def test_dtype_of_the_iou():
    half = {name: GOOD[name].half() for name in ("boxes", "target_boxes")}
    expected = F.iou_match(*(x.float() for x in half.values()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = F.iou_match(**half)
    for index, iou in (
        under_autocast,
        F.iou_match(half["boxes"].float(), half["target_boxes"]),
        F.iou_match(half["boxes"], half["target_boxes"].float()),
    ):
        assert torch.equal(index, expected[0]) and torch.equal(iou, expected[1])
    assert F.iou_match(half["boxes"], BOXES.double())[1].dtype == torch.float64


def test_shared_boxes_are_those_of_every_image():
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(3000, 2, generator=g) * 50
    boxes = torch.cat((corner, corner + 5), -1)
    targets = torch.stack([boxes[i * 100 : i * 100 + 30] + 1 for i in range(7)])
    shared = F.iou_match(boxes, targets)
    repeated = F.iou_match(boxes.expand(7, -1, -1), targets)
    assert torch.equal(shared[0], repeated[0]) and torch.equal(shared[1], repeated[1])


@pytest.mark.skipif(fastloss.backends()["iou_match"]["cpu"] != "C++", reason="no C++ kernels")
@pytest.mark.parametrize("rule", ("target", "box"))
def test_memory_beside_the_results_is_a_fraction_of_a_matrix(rule):
    images, count, targets = 2, 40_000, 200
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(images, count, 2, generator=g) * 500
    boxes = torch.cat((corner, corner + 20), -1)

    def peak(few: int) -> int:
        return peak_bytes(
            lambda: F.iou_match(boxes, boxes[:, :few] + 3, low_quality_index=rule), boxes.device
        )

    results = images * count * (8 + 4)
    own_targets = images * targets * 4 * 4  # `boxes[:, :few] + 3`
    assert peak(1) < 1.01 * results
    assert peak(targets) - results - own_targets < 0.002 * images * count * targets * 4
