"""Max-IoU assignment against the matrix of IoUs, bit for bit."""

import match_cases
import pytest
import torch

import fastloss.functional as F
from fastloss.testing import implementation

OPTIONS = {"positive": 0.5, "negative": 0.4, "min_positive": 0.0, "eps": 1e-7}
OPTIONS |= {"low_quality": True, "low_quality_index": "target"}


def run(language, *args, **options):
    """By the C++ kernel, or by an implementation in Python."""
    if language == "C++":
        return F.iou_match(*args, **options)
    with implementation(language):
        return F.iou_match(*args, **options)


def assert_same(actual, expected, rounds=True):
    """The same bits, NaN included; without `rounds` but for the last bit of an IoU."""
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape
    assert torch.equal(actual[0], expected[0])
    if rounds or actual[1].dtype != torch.bfloat16:
        assert torch.equal(actual[1].nan_to_num(-1), expected[1].nan_to_num(-1))
    else:  # Triton's interpreter cuts bfloat16 off
        torch.testing.assert_close(*(x[1].float() for x in (actual, expected)), rtol=0.01, atol=0)


def check(language, seeds):
    for seed in seeds:
        *args, options = match_cases.case(seed)
        expected = match_cases.by_matrix(*args, options)
        assert_same(run(language, *args, **options), expected, rounds=language != "triton")


@pytest.mark.parametrize("language,count", (("C++", 400), ("reference", 200)))
def test_equals_the_matrix_form(language, count):
    check(language, range(count))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles for the GPU here")
def test_triton_equals_the_matrix_form(triton_kernels):
    check("triton", [seed for seed in range(1, 55) if seed % 10])


@pytest.mark.full
def test_equals_the_matrix_form_ten_thousand_times():
    check("C++", range(10_000))


@pytest.mark.gpu
def test_gpu_equals_the_matrix_form():
    for seed in range(500):
        *args, options = match_cases.case(seed)
        found = F.iou_match(*(x.cuda() for x in args), **options)
        assert_same([x.cpu() for x in found], match_cases.by_matrix(*args, options))


@pytest.mark.parametrize("dtype", match_cases.DTYPES, ids=str)
def test_iou_has_the_bits_of_eager_pytorch(dtype):
    """The product of the sides is rounded before it is subtracted: a fused multiply-add, which
    compilers make of it, would give other bits for one pair in ten."""
    g = torch.Generator().manual_seed(0)
    boxes = match_cases.real_boxes(g, 20, 5000, image=30, side=40).to(dtype)
    targets = match_cases.real_boxes(g, 20, 1, image=30, side=40).to(dtype)
    _, iou = F.iou_match(boxes, targets, low_quality=False)
    pairs = zip(boxes, targets, strict=True)
    expected = torch.stack([match_cases.iou_matrix(*pair, 1e-7)[:, 0] for pair in pairs])
    assert (expected > 0).sum() > 20_000
    assert torch.equal(iou, expected.to(dtype))


def corners(*rows):
    return torch.tensor(rows, dtype=torch.float32)


@pytest.mark.parametrize("language", ("C++", "reference"))
def test_by_hand(language):
    """IoU with the first and the second target: 1 and 0; 1/2 and 0; 1/6 and 1/5; 0 and 1/7."""
    boxes = corners([0, 0, 4, 4], [0, 0, 4, 2], [0, 2, 4, 12], [0, 10, 4, 16.0])
    targets = corners([0, 0, 4, 4], [0, 9, 4, 11], [0, 50, 4, 60])[None]
    third = targets[:, :2]
    index, iou = run(language, boxes, third, positive=0.6, negative=0.45, low_quality=False)
    assert index.tolist() == [[0, -2, -1, -1]]
    assert torch.equal(iou, torch.tensor([[1, 1 / 2, 1 / 5, 1 / 7]]))
    assert run(language, boxes, third)[0].tolist() == [[0, 0, 1, -1]]
    # The third target overlaps nothing: it takes all boxes, unless some overlap is asked for.
    assert run(language, boxes, targets)[0].tolist() == [[2, 2, 2, 2]]
    assert run(language, boxes, targets, min_positive=1e-6)[0].tolist() == [[0, 0, 1, -1]]
    by_box = run(language, boxes, targets, low_quality_index="box")[0]
    assert by_box.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("language", ("C++", "reference"))
def test_of_equal_targets_the_first_is_best_and_the_last_takes(language):
    boxes = corners([0, 0, 4, 4], [0, 0, 4, 3], [20, 20, 21, 21.0])
    targets = corners([0, 0, 4, 4], [0, 0, 4, 4])[None]
    assert run(language, boxes, targets)[0].tolist() == [[1, 0, -1]]
    by_box = run(language, boxes, targets, low_quality_index="box")[0]
    assert by_box.tolist() == [[0, 0, -1]]


def languages(triton_kernels):
    return ("C++", "reference") + (() if torch.cuda.is_available() else ("triton",))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("filling", (torch.nan, torch.inf, -1e38, 2.0**61, 5.0))
def test_what_is_masked_does_not_matter(filling, triton_kernels):
    """Padding at the end, in front, and in the middle; also where it would take every box."""
    g = torch.Generator().manual_seed(1)
    boxes = match_cases.integer_boxes(g, 2, 70, image=20, side=10).float()
    targets = match_cases.integer_boxes(g, 2, 9, image=20, side=10).float()
    mask = torch.rand(2, 9, generator=g) < 0.6
    for language in languages(triton_kernels):
        expected = run(language, boxes, targets, mask)
        spoilt = torch.where(mask[..., None], targets, filling)
        assert_same(run(language, boxes, spoilt, mask), expected)
        if not torch.tensor(filling).isfinite():  # such a target does not exist anyway
            assert_same(run(language, boxes, spoilt), expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("position", (0, 2, 69))
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
def test_boxes_that_are_not_finite_are_ignored(value, position, triton_kernels):
    """The others are matched as if these were not there, also by a target that overlaps none."""
    g = torch.Generator().manual_seed(2)
    boxes = match_cases.integer_boxes(g, 2, 70, image=20, side=10).float()
    targets = match_cases.integer_boxes(g, 2, 4, image=20, side=10).float()
    rest = [i for i in range(70) if i != position]
    for far in (0, 100):
        targets[1, 3] += far
        for language in languages(triton_kernels):
            expected = run(language, boxes[:, rest], targets)
            spoilt = boxes.clone()
            spoilt[:, position, position % 4] = value
            index, iou = run(language, spoilt, targets)
            assert_same((index[:, rest], iou[:, rest]), expected)
            assert (index[:, position] == -2).all() and iou[:, position].isnan().all()
            nothing = run(language, torch.full((2, 3, 4), value), targets)
            assert (nothing[0] == -2).all() and nothing[1].isnan().all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype,power", ((torch.float32, 100), (torch.float64, 900)), ids=str)
def test_huge_boxes_match_as_small_ones(dtype, power, triton_kernels):
    """Areas of such boxes overflow; among small boxes they have IoUs near 0, not NaN."""
    g = torch.Generator().manual_seed(3)
    boxes = match_cases.integer_boxes(g, 2, 60, image=20, side=10).to(dtype)
    targets = match_cases.integer_boxes(g, 2, 5, image=20, side=10).to(dtype)
    huge = [x * 2.0**power for x in (boxes, targets)]
    options = {"eps": 0.0, "min_positive": 0.1}
    for language in languages(triton_kernels):
        expected = run(language, boxes, targets, **options)
        assert_same(run(language, *huge, **options), expected)
        mixed = [torch.cat(pair, 1) for pair in zip((boxes, targets), huge)]
        index, iou = run(language, *mixed, **options)
        assert iou.isfinite().all() and torch.equal(iou, expected[1].repeat(1, 2))
        matched = torch.cat((expected[0], expected[0] + 5 * (expected[0] >= 0)), 1)
        assert torch.equal(index, matched)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype,power", ((torch.float32, 62), (torch.float64, 510)), ids=str)
def test_scale_of_one_side_of_a_pair(dtype, power, triton_kernels):
    """Areas overflow on one side, the coordinates of the other need no scale by themselves."""
    g = torch.Generator().manual_seed(5)
    large = match_cases.integer_boxes(g, 2, 60, image=1, side=10).to(dtype)
    small = match_cases.integer_boxes(g, 2, 60, image=20, side=10).to(dtype) / 2**15
    for language in languages(triton_kernels):
        for boxes, targets in ((large, small[:, :5]), (small, large[:, :5])):
            expected = run(language, boxes, targets, eps=0.0)
            assert expected[1].any()
            pair = (boxes * 2.0**power, targets * 2.0**power)
            assert_same(run(language, *pair, eps=0.0), expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_eps_is_scaled_with_the_boxes(triton_kernels):
    """A thin box far away has a moderate area, beside which eps is nothing."""
    box = torch.tensor([[2.0**61, 0, 2.0**61 + 2.0**40, 2.0**-17]])
    for language in languages(triton_kernels):
        assert run(language, box, box[None])[1].item() == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_areas_that_underflow_overlap_by_0(triton_kernels):
    """Without eps, 0 / 0 counts as 0, also as the maximum of a target, which takes all boxes."""
    box = torch.tensor([[0, 0, 1e-30, 1e-30]])
    for language in languages(triton_kernels):
        index, iou = run(language, box, box[None], eps=0.0)
        assert index.tolist() == [[0]] and iou.tolist() == [[0]]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("coordinate", range(4))
def test_targets_that_are_not_finite_do_not_exist(coordinate, triton_kernels):
    boxes = corners([0, 0, 4, 4], [2, 2, 8, 8.0])
    targets = corners([0, 0, 4, 3], [2, 2, 8, 9.0], [0, 0, 9, 9])[None]
    rest = torch.tensor([[True, False, True]])
    for value in (torch.nan, torch.inf, -torch.inf):
        spoilt = targets.clone()
        spoilt[0, 1, coordinate] = value
        for language in languages(triton_kernels):
            assert_same(run(language, boxes, spoilt), run(language, boxes, targets, rest))


def test_one_thread_or_several():
    """Enough chunks that the work is really shared, with and without boxes of their own."""
    g = torch.Generator().manual_seed(4)
    boxes = match_cases.integer_boxes(g, 4, 20_000, image=300, side=40).float()
    targets = match_cases.integer_boxes(g, 4, 60, image=300, side=40).float()
    threads = torch.get_num_threads()
    for given in (boxes, boxes[0]):
        expected = match_cases.by_matrix(given, targets, None, OPTIONS)
        try:
            for count in (1, 2, 4):
                torch.set_num_threads(count)
                assert_same(F.iou_match(given, targets), expected)
        finally:
            torch.set_num_threads(threads)
