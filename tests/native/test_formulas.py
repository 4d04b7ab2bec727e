"""csrc/common: each formula's derivatives against differences of its values, and known values."""

import math
import random

import pytest

FOCAL = ["focal_square", "focal", "quality_focal", "varifocal", "binary_cross_entropy"]
FOCAL_OF_PROBABILITY = ["focal_activated", "quality_focal_activated"]
FOCAL_OF_PROBABILITY += ["gaussian_focal_square", "gaussian_focal"]
BOX = ["iou", "iou_square", "iou_log", "giou", "diou", "eiou", "siou", "siou_neg_gamma"]
STEP = 1e-6


def slope(function, arguments: list[float], position: int) -> float:
    """The central difference of the function's first result."""
    low, high = list(arguments), list(arguments)
    low[position] -= STEP
    high[position] += STEP
    return (function(*high)[0] - function(*low)[0]) / (2 * STEP)


@pytest.mark.parametrize("name", FOCAL + FOCAL_OF_PROBABILITY)
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0, 4.0])
def test_focal_derivatives(name, gamma, native):
    function, draw = getattr(native.float64, name), random.Random(0)
    for _ in range(200):
        x = draw.gauss(0, 3) if name in FOCAL else draw.uniform(0.02, 0.98)
        t = draw.uniform(0.02, 0.98)
        arguments = [x, t, 1.7, 0.3, gamma, 1.0, 0.6]
        _, dx, dt = function(*arguments)
        assert dx == pytest.approx(slope(function, arguments, 0), rel=1e-5, abs=1e-7)
        assert dt == pytest.approx(slope(function, arguments, 1), rel=1e-5, abs=1e-7)


def random_pair(draw: random.Random) -> list[float]:
    """Two proper boxes, which overlap in most draws."""
    pair = []
    for _ in range(2):
        x, y = draw.uniform(0, 4), draw.uniform(0, 4)
        pair += [x, y, x + draw.uniform(1, 6), y + draw.uniform(1, 6)]
    return pair


@pytest.mark.parametrize("name", BOX)
def test_box_gradients(name, native):
    function, draw = getattr(native.float64, name), random.Random(0)

    def of_coordinates(*values):
        return function(values[:4], values[4:], 1e-7, 1e-7)

    for _ in range(200):
        pair = random_pair(draw)
        gradient = of_coordinates(*pair)[1:]
        expected = [slope(of_coordinates, pair, position) for position in range(8)]
        assert gradient == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_bounded_iou_gradients(native):
    draw = random.Random(0)

    def losses(*values):
        return native.float64.bounded_iou(values[:4], values[4:], 1e-7, 0.3)

    for _ in range(200):
        pair = random_pair(draw)
        gradients = losses(*pair)[4:]
        for i in range(4):
            expected = [slope(lambda *v, i=i: losses(*v)[i:], pair, at) for at in range(4)]
            assert gradients[4 * i : 4 * i + 4] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def ciou(values: list[float], alpha: float | None = None) -> tuple[float, float]:
    """The CIoU loss as its paper states it, and its alpha; a given alpha is used instead."""
    x1, y1, x2, y2, u1, v1, u2, v2 = values
    inter = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
    iou = inter / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inter)
    diagonal = (max(x2, u2) - min(x1, u1)) ** 2 + (max(y2, v2) - min(y1, v1)) ** 2
    distance = ((x1 + x2 - u1 - u2) ** 2 + (y1 + y2 - v1 - v2) ** 2) / 4
    angle = math.atan((u2 - u1) / (v2 - v1)) - math.atan((x2 - x1) / (y2 - y1))
    v = 4 / math.pi**2 * angle**2
    if alpha is None:
        alpha = v / (1 - iou + v) if iou > 0.5 else 0.0
    return 1 - iou + distance / diagonal + alpha * v, alpha


def test_ciou_holds_alpha_constant_in_its_gradient(native):
    draw, seen = random.Random(0), 0
    for _ in range(1000):
        pair = random_pair(draw)
        pair[4:] = [value + draw.uniform(-0.4, 0.4) for value in pair[:4]]
        value, *gradient = native.float64.ciou(pair[:4], pair[4:], 1e-12, 1e-12)
        expected, alpha = ciou(pair)
        seen += alpha > 0
        slopes = [slope(lambda *v, a=alpha: ciou(v, a), pair, position) for position in range(8)]
        assert value == pytest.approx(expected, rel=1e-8)
        assert gradient == pytest.approx(slopes, rel=1e-5, abs=1e-6)
    assert seen > 100


A, B, FAR = (0, 0, 2, 2), (1, 1, 3, 3), (4, 0, 6, 2)
WIDE, CORNER = (-1, 0, 3, 2), (3, 3, 4, 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name, pred, target, loss",
    [
        ("iou", A, B, 6 / 7),
        ("iou_square", A, B, 48 / 49),
        ("iou_log", A, B, math.log(7)),
        ("giou", A, B, 6 / 7 + 2 / 9),
        ("diou", A, B, 6 / 7 + 1 / 9),
        ("ciou", A, B, 6 / 7 + 1 / 9),
        ("eiou", A, B, 6 / 7 - 0.05),
        ("siou", A, B, 6 / 7 + 1 - math.exp(1 / 9)),
        ("siou_neg_gamma", A, B, 6 / 7 + 1 - math.exp(-1 / 9)),
        ("eiou", A, FAR, 4 / 3 - 0.05),
        ("siou", A, FAR, 1 + (1 - math.exp(8 / 9)) / 2),
        ("siou_neg_gamma", A, FAR, 1 + (1 - math.exp(-8 / 9)) / 2),
        ("eiou", A, CORNER, 5 / 3 - 0.05),
        ("siou_neg_gamma", A, WIDE, 1 / 2 + (1 - math.exp(-1 / 2)) ** 4 / 2),
        ("iou", A, FAR, 1),
        ("giou", A, FAR, 1 + 4 / 12),
        ("diou", A, FAR, 1 + 16 / 40),
        *((name, A, A, 0) for name in (*BOX, "ciou")),
    ],
)
def test_box_losses_worked_by_hand(name, pred, target, loss, dtype, native):
    got = getattr(getattr(native, dtype), name)(pred, target, 1e-7, 1e-7)[0]
    assert got == pytest.approx(loss, abs=2e-7)


@pytest.mark.parametrize("name", [*BOX, "ciou"])
@pytest.mark.parametrize(
    "pred, target",
    [
        ((1, 1, 1, 1), A),
        ((1, 1, 1, 1), (1, 1, 1, 1)),
        ((2, 2, 0, 0), A),
        ((-1e20, -1e20, 1e20, 1e20), A),
        ((-1e38, 0, 1e38, 1), (0, -1e38, 1, 1e38)),
        ((0, 0, 1e-20, 1e-20), (0, 0, 1e-20, 2e-20)),
    ],
)
def test_degenerate_and_huge_boxes_stay_finite(name, pred, target, native):
    assert all(map(math.isfinite, getattr(native.float32, name)(pred, target, 1e-7, 1e-7)))


@pytest.mark.parametrize("name", [*BOX, "ciou"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("position", range(8))
def test_a_coordinate_that_is_not_finite_gives_nan(name, bad, position, native):
    pair = [*A, *B]
    pair[position] = bad
    assert all(map(math.isnan, getattr(native.float32, name)(pair[:4], pair[4:], 1e-7, 1e-7)))


@pytest.mark.parametrize("name", FOCAL)
@pytest.mark.parametrize("x", [-100.0, -20.0, 0.0, 20.0, 100.0])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_float_agrees_with_double_in_the_tails(name, x, t, native):
    arguments = (x, t, 1.0, 0.25, 2.0, 1.0, 1.0)
    got, true = (getattr(m, name)(*arguments) for m in (native.float32, native.float64))
    assert got == pytest.approx(true, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize(
    "name, d, beta, value, derivative",
    [
        ("l1", -3.0, 1.0, 3.0, -1.0),
        ("l1", 0.0, 1.0, 0.0, 0.0),
        ("mse", -3.0, 1.0, 9.0, -6.0),
        ("smooth_l1", 0.25, 0.5, 0.0625, 0.5),
        ("smooth_l1", -0.5, 0.5, 0.25, -1.0),
        ("smooth_l1", -3.0, 0.5, 2.75, -1.0),
    ],
)
def test_regression(name, d, beta, value, derivative, native):
    for module in (native.float32, native.float64):
        assert tuple(getattr(module, name)(d, beta)) == (value, derivative)


@pytest.mark.parametrize("d, beta", [(-0.3, 1.0), (0.05, 0.4), (0.7, 0.4), (-2.0, 1.0), (0.0, 0.5)])
def test_balanced_l1(d, beta, native):
    b, a = math.exp(3) - 1, abs(d)
    if a < beta:
        value = 0.5 / b * (b * a + 1) * math.log(b * a / beta + 1) - 0.5 * a
        slope = 0.5 * math.log(b * a / beta + 1) + 0.5 * (b * a + 1) / (b * a + beta) - 0.5
    else:
        value, slope = 1.5 * a + 1.5 / b - 0.5 * beta, 1.5
    expected = pytest.approx((value, slope * ((d > 0) - (d < 0))), rel=2e-6)
    for module in (native.float32, native.float64):
        assert tuple(module.balanced_l1(d, beta)) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounded_iou_worked_by_hand(dtype, native):
    """The centres are (1, 0) apart, the widths 2 and 4, the heights 2 and 3."""
    losses = getattr(native, dtype).bounded_iou((0, 0, 2, 2), (0, -0.5, 4, 2.5), 0.0, 0.2)[:4]
    assert losses == pytest.approx([2 / 3 - 0.1, 0, 1 / 2 - 0.1, 1 / 3 - 0.1], abs=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("position", range(8))
def test_bounded_iou_of_a_coordinate_that_is_not_finite(bad, position, native):
    pair = [*A, *B]
    pair[position] = bad
    assert all(map(math.isnan, native.float32.bounded_iou(pair[:4], pair[4:], 1e-7, 0.2)))
