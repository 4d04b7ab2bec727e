"""IoULoss, GIoULoss, DIoULoss, CIoULoss, EIoULoss, SIoULoss and their functions against mmdet's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

CLASSES = ["IoULoss", "GIoULoss", "DIoULoss", "CIoULoss", "EIoULoss", "SIoULoss"]
FUNCTIONS = ["iou_loss", "giou_loss", "diou_loss", "ciou_loss", "eiou_loss", "siou_loss"]
N = 37

# pairs of pred and target, xyxy
EDGES = {
    "touching": ([0, 0, 2, 2], [2, 0, 4, 2]),
    "corner": ([0, 0, 2, 2], [2, 2, 4, 4]),
    "disjoint": ([0, 0, 2, 3], [5, 7, 6, 9]),
    "inside": ([0, 0, 10, 8], [3, 2, 5, 4]),
    "flat": ([1, 1, 1, 4], [0, 0, 3, 3]),
    "point": ([1, 1, 1, 1], [0, 0, 3, 3]),
    "two points": ([1, 1, 1, 1], [4, 5, 4, 5]),
    "inverted": ([4, 5, 1, 2], [0, 1, 3, 3]),
    "both inverted": ([4, 5, 1, 2], [3, 6, 0, 1]),
    "far away": ([0, 0, 1, 1], [10000, 20000, 10003, 20002]),
    "negative": ([-7, -9, -1, -2], [-6, -6, 3, 1]),
    "smaller than eps": ([0, 0, 1e-4, 1e-4], [0, 0, 2e-4, 1e-4]),
    "unit square": ([0.1, 0.2, 0.15, 0.22], [0.11, 0.2, 0.14, 0.23]),
}


def boxes(n=N, seed=0, dtype=torch.float64):
    """Overlapping pairs, so that every term has a gradient: (n, 4), (n, 4) xyxy."""
    generator = torch.Generator().manual_seed(seed)
    centre = 20 * torch.rand(n, 2, generator=generator, dtype=dtype)
    size = 1 + 9 * torch.rand(n, 2, generator=generator, dtype=dtype)
    target = torch.cat((centre - size / 2, centre + size / 2), -1)
    return target + torch.randn(n, 4, generator=generator, dtype=dtype), target


def make(name, **options):
    return getattr(mmdet, name)(**options), getattr(upstream, name)(**options)


def weights():
    generator = torch.Generator().manual_seed(1)
    rows = torch.rand(N, generator=generator, dtype=torch.float64)
    full = torch.rand(N, 4, generator=generator, dtype=torch.float64)
    one_positive = -torch.rand(N, 4, generator=generator, dtype=torch.float64)
    one_positive[3, 2] = (
        1e-3  # decides against the shortcut although every mean over a row is negative
    )
    return {
        "none": None,
        "rows": rows,
        "full": full,
        "half zero": rows * (rows > 0.5),
        "signed": rows - 0.5,
        "one positive": one_positive,
        "zero": torch.zeros(N, dtype=torch.float64),
        "zero full": torch.zeros(N, 4, dtype=torch.float64),
        "negative": -rows,
        "negative full": -full,
        "one negative": torch.zeros(N, 4, dtype=torch.float64).index_fill(
            0, torch.tensor([5]), -2.0
        ),
        "broadcast": torch.tensor([0.7], dtype=torch.float64),
        "scalar": torch.tensor(0.7, dtype=torch.float64),
    }


NOT_POSITIVE = ["zero", "zero full", "negative", "negative full", "one negative"]
POSITIVE = [name for name in weights() if name not in NOT_POSITIVE]
AVG_FACTORS = {
    "none": None,
    "number": 11,
    "zero": 0.0,
    "tensor": torch.tensor(13.0),
    "integer tensor": torch.tensor(13),  # has no gradient, so that it goes into the kernel
    "negative": -3.0,
    "infinite": float("inf"),
}


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", CLASSES)
def test_class(name, reduction, dtype):
    assert_parity(*make(name, reduction=reduction, loss_weight=2.5), *boxes(), dtype=dtype)


@pytest.mark.parametrize("loss_weight", [0.0, -1.5, torch.tensor(2.5)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_loss_weight(reduction, loss_weight):
    assert_parity(*make("GIoULoss", reduction=reduction, loss_weight=loss_weight), *boxes())


@pytest.mark.parametrize("mode", ["linear", "square", "log"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_iou_modes(mode, dtype):
    assert_parity(*make("IoULoss", mode=mode, reduction="none"), *boxes(), dtype=dtype)
    pred, target = boxes()
    assert_parity(
        *make("IoULoss", mode=mode, eps=0.3, reduction="none"), pred, target + 3, dtype=dtype
    )


@pytest.mark.parametrize("weight", weights().items(), ids=lambda item: item[0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", CLASSES)
def test_weight(name, reduction, weight):
    assert_parity(*make(name, reduction=reduction, loss_weight=2.0), *boxes(), weight[1])


@pytest.mark.parametrize("weight", POSITIVE)
@pytest.mark.parametrize("name", CLASSES)
def test_weight_without_reduction(name, weight):
    assert_parity(*make(name, reduction="none", loss_weight=2.0), *boxes(), weights()[weight])


@pytest.mark.parametrize("avg_factor", AVG_FACTORS.items(), ids=lambda item: item[0])
@pytest.mark.parametrize("weight", ["none", "rows", "full", "zero", "negative full"])
@pytest.mark.parametrize("name", CLASSES)
def test_avg_factor_and_override(name, weight, avg_factor):
    ours, theirs = make(name, reduction="sum", loss_weight=2.0)
    extra = {"avg_factor": avg_factor[1], "reduction_override": "mean"}
    assert_parity(ours, theirs, *boxes(), weights()[weight], **extra)
    if weight in POSITIVE:
        extra["reduction_override"] = "none"
        assert_parity(ours, theirs, *boxes(), weights()[weight], **extra)


@pytest.mark.parametrize("weight", NOT_POSITIVE)
def test_iou_loss_has_no_shortcut_without_reduction(weight):
    assert_parity(*make("IoULoss", reduction="none"), *boxes(), weights()[weight])


@pytest.mark.parametrize("weight", NOT_POSITIVE)
@pytest.mark.parametrize("name", CLASSES[1:])
def test_shortcut_without_reduction(name, weight):
    # mmdet returns a scalar, which needs the weights on the host; ours keeps the shape, and sums
    # to that scalar.
    ours, theirs = make(name, reduction="none")
    assert ours(*boxes(), weights()[weight]).shape == (N,)
    assert_parity(lambda *args: ours(*args).sum(), theirs, *boxes(), weights()[weight])


# 0/0 without a width, and 0 * inf in the gradient of an exponential that overflows
NAN_IN_MMDET = [("SIoULoss", edge) for edge in ("two points", "both inverted")]


@pytest.mark.parametrize(
    "name, edge",
    [(n, e) for n in CLASSES for e in EDGES if (n, e) not in NAN_IN_MMDET],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_edge_boxes(name, edge, dtype):
    pred, target = (torch.tensor([box], dtype=torch.float64) for box in EDGES[edge])
    assert_parity(*make(name, reduction="none"), pred, target, dtype=dtype, scale=1)


@pytest.mark.parametrize("name, edge", NAN_IN_MMDET)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bug_siou_of_boxes_without_width_or_inverted_is_finite(name, edge, dtype):
    pred, target = (torch.tensor([box], dtype=dtype) for box in EDGES[edge])
    ours, theirs = make(name, reduction="none")
    x, y = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    value, library = ours(x, target), theirs(y, target)
    library.sum().backward()
    assert library.isnan().all() or y.grad.isnan().any()
    value.sum().backward()
    assert value.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("apart", [0, 3, 30])
@pytest.mark.parametrize("smooth_point", [0.02, 0.5, 3])
def test_smooth_point(smooth_point, apart, dtype):
    pred, target = boxes()
    losses = make("EIoULoss", smooth_point=smooth_point, reduction="none")
    assert_parity(*losses, pred, target + apart, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("apart", [0, 3, 30])
@pytest.mark.parametrize("neg_gamma", [False, True, 1])
def test_neg_gamma(neg_gamma, apart, dtype):
    pred, target = boxes()
    losses = make("SIoULoss", neg_gamma=neg_gamma, reduction="none")
    assert_parity(*losses, pred, target + apart, dtype=dtype, scale=1)


@pytest.mark.parametrize("name", CLASSES)
def test_identical_boxes(name):
    # In float64 and with this eps mmdet's CIoU stays finite here.
    _, target = boxes()
    losses = make(name, reduction="none", eps=1e-3)
    assert_parity(*losses, target, target.clone(), dtype=torch.float64, scale=1)


def test_bug_ciou_of_coinciding_boxes_is_finite():
    # mmdet: the IoU rounds to 1 in float32, alpha is 0 / 0.
    box = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    assert upstream.CIoULoss()(box, box).isnan()
    pred = box.clone().requires_grad_()
    loss = mmdet.CIoULoss()(pred, box)
    loss.backward()
    assert loss == 0
    assert pred.grad.isfinite().all()


@pytest.mark.parametrize("weight_shape", [None, (0,), (0, 4)])
@pytest.mark.parametrize("avg_factor", [None, 0.0, 3.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", CLASSES)
def test_no_boxes(name, reduction, avg_factor, weight_shape):
    ours, theirs = make(name, reduction=reduction, loss_weight=-1.0)
    empty = torch.zeros(0, 4)
    weight = None if weight_shape is None else torch.zeros(weight_shape)
    if reduction == "sum" and avg_factor is not None and weight is None:
        with pytest.raises(ValueError, match="sum"):
            ours(empty, empty, weight, avg_factor)
        return
    assert_parity(ours, theirs, empty, empty, weight, avg_factor)
    pred = empty.clone().requires_grad_()
    assert ours(
        pred, empty, weight, avg_factor
    ).requires_grad  # mmdet's IoULoss and GIoULoss cut the graph here


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    ours, theirs = getattr(mmdet, name), getattr(upstream, name)
    pred, target = boxes()
    for reduction in ("none", "mean", "sum"):
        assert_parity(ours, theirs, pred, target, weights()["rows"], reduction)
    assert_parity(ours, theirs, pred, target, None, "mean", 5, eps=1e-3)
    # Plain torch broadcasting: the weight enlarges the loss.
    assert_parity(ours, theirs, pred, target, weights()["rows"][:, None], "mean")


def test_batches_of_boxes():
    pred, target = (x.reshape(3, 12, 4) for x in boxes(36))
    for name in FUNCTIONS[:2]:
        assert_parity(getattr(mmdet, name), getattr(upstream, name), pred, target, None, "none")


@pytest.mark.parametrize("name", FUNCTIONS[2:])
def test_one_box_against_many(name):
    pred, target = boxes()
    assert_parity(getattr(mmdet, name), getattr(upstream, name), pred, target[:1], None, "none")


@pytest.mark.parametrize("name", CLASSES)
def test_strides_and_mixed_dtypes(name):
    pred, target = boxes()
    ours, theirs = make(name, reduction="none")
    assert_parity(
        ours,
        theirs,
        pred.t().contiguous().t(),
        target[::2].repeat_interleave(2, 0)[:N],
        weights()["rows"],
    )
    mixed = ours(pred.float(), target.double()), theirs(pred.float(), target.double())
    assert mixed[0].dtype == mixed[1].dtype
    torch.testing.assert_close(*mixed)


def test_linear_is_deprecated():
    pred, target = boxes()
    with pytest.warns(UserWarning, match="linear"):
        ours = mmdet.IoULoss(linear=True)
    assert ours.mode == "linear" and ours.linear
    with pytest.warns(UserWarning, match="linear"):
        value = mmdet.iou_loss(pred, target, linear=True)
    torch.testing.assert_close(ours(pred, target), value)
    torch.testing.assert_close(value, upstream.iou_loss(pred, target, mode="linear"))


ERRORS = {
    "mode": (lambda m: m.IoULoss(mode="cubic"), "mode must be one of .*cubic"),
    "mode of the function": (lambda m: m.iou_loss(*boxes(), mode="cubic"), "mode must be one of"),
    "override": (
        lambda m: m.GIoULoss()(*boxes(), reduction_override="max"),
        "reduction_override must be .*max",
    ),
    "override of IoULoss": (
        lambda m: m.IoULoss()(*boxes(), reduction_override=True),
        "reduction_override",
    ),
    "sum with avg_factor": (
        lambda m: m.GIoULoss(reduction="sum")(*boxes(), avg_factor=2),
        "avg_factor",
    ),
    "reduction": (lambda m: m.DIoULoss(reduction="max")(*boxes()), "reduction"),
    "lengths": (
        lambda m: m.GIoULoss()(boxes()[0], boxes()[1][:5]),
        r"same shape, got \(37, 4\) and \(5, 4\)",
    ),
    "lengths of DIoULoss": (lambda m: m.DIoULoss()(boxes()[0], boxes()[1][:5]), None),
    "columns": (
        lambda m: m.IoULoss()(torch.rand(3, 5), torch.rand(3, 5)),
        r"shape \(n, 4\), got \(3, 5\)",
    ),
    "weight": (
        lambda m: m.CIoULoss()(*boxes(), torch.rand(N, 3)),
        r"weight must have shape .*\(37, 3\)",
    ),
    "unexpected argument": (lambda m: m.GIoULoss()(*boxes(), colour=1), "colour"),
    "argument given twice": (lambda m: m.IoULoss()(*boxes(), mode="linear"), "mode"),
    "smooth_point given twice": (
        lambda m: m.EIoULoss()(*boxes(), smooth_point=0.2),
        "smooth_point",
    ),
    "neg_gamma given twice": (lambda m: m.SIoULoss()(*boxes(), neg_gamma=True), "neg_gamma"),
}


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(mmdet)
    assert ours.type is theirs.type
