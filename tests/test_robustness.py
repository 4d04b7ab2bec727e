"""Strides, sizes, determinism, untouched inputs, no host reads, class indices out of range."""

import concurrent.futures

import pytest
import torch

import fastloss
import fastloss.functional as F
from fastloss.testing import Sample, assert_matches, capture, forbid_host_reads, samples

ALL = samples()
KINDS = list(
    {
        (s.function, *sorted(map(str, s.options.items()))): s for s in ALL if "small" in s.tags
    }.values()
)
ON_DEVICE = [s for s in KINDS if "host" not in s.tags]
LARGE = [s for s in ALL if "large" in s.tags and s.options.get("reduction", "mean") == "mean"]


FUSED = fastloss.backends()["box_loss"]["cpu"] == "C++"


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same bits from the kernels. The reference sums with torch, whose order depends on strides
    and threads, so that its last bits may differ."""
    if FUSED:
        return torch.equal(a, b)
    assert_matches(a, b.double(), scale=1e-3)
    return True


def same(a: Sample, b: Sample) -> None:
    (value, gradients), (other_value, other_gradients) = a.run(), b.run()
    assert equal(value, other_value)
    for name in gradients:
        assert equal(gradients[name], other_gradients[name]), name


def offset(x):
    return torch.cat(
        (torch.full((3,), torch.nan if x.is_floating_point() else 0).to(x.dtype), x.flatten())
    )[3:].view(x.shape)


def sliced(x):
    return torch.stack((x, torch.full_like(x, 7)), -1)[..., 0]


def transposed(x):
    return x.mT.contiguous().mT if x.dim() > 1 else x


def channels_last(x):
    return (
        x.unsqueeze(0).contiguous(memory_format=torch.channels_last).squeeze(0)
        if x.dim() == 3
        else x.movedim(0, -1).contiguous().movedim(-1, 0)
    )


def expanded(x):
    return x[:1].expand_as(x) if x.dim() else x


@pytest.mark.parametrize(
    "layout", (offset, sliced, transposed, channels_last, expanded), ids=lambda f: f.__name__
)
@pytest.mark.parametrize("sample", KINDS, ids=lambda s: s.name)
def test_strides(sample, layout):
    """Any layout gives the bits of the contiguous one."""
    laid_out = sample.map(lambda x: layout(x) if x.dim() else x)
    same(laid_out, laid_out.map(torch.clone).map(torch.Tensor.contiguous))


@pytest.mark.parametrize("layout", (sliced, transposed, expanded), ids=lambda f: f.__name__)
def test_strides_of_the_incoming_gradient(layout):
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(6, 4, dtype=torch.float64)
    value = F.regression_loss(x, torch.zeros_like(x), kind="mse", reduction="none")
    (actual,) = torch.autograd.grad(value, x, layout(grad))
    torch.testing.assert_close(actual, 2 * x.detach() * layout(grad), rtol=1e-15, atol=0)


EMPTY = {
    "box_loss": (F.box_loss, (0, 4), (0, 4), {}),
    "bounded_iou": (F.box_loss, (0, 4), (0, 4), {"kind": "bounded_iou"}),
    "regression_loss": (F.regression_loss, (0, 3), (0, 3), {}),
    "sigmoid_focal_loss": (F.sigmoid_focal_loss, (0, 3), (0, 3), {}),
    "no rows, class indices": (F.sigmoid_focal_loss, (0, 3), (0,), {}),
    "no classes": (F.sigmoid_focal_loss, (5, 0), (5, 0), {}),
    "quality_focal_loss": (F.quality_focal_loss, (0, 3), (0, 3), {}),
    "varifocal_loss": (F.varifocal_loss, (0, 3), (0, 3), {}),
    "gaussian_focal_loss": (F.gaussian_focal_loss, (2, 0), (2, 0), {}),
    "binary_cross_entropy": (F.binary_cross_entropy, (0, 3), (0, 3), {}),
}


@pytest.mark.parametrize("reduction", ("none", "mean", "sum"))
@pytest.mark.parametrize("case", EMPTY)
def test_empty(case, reduction):
    """0, connected to the graph, with a gradient of the input's shape."""
    function, shape, target_shape, options = EMPTY[case]
    x = torch.zeros(shape, requires_grad=True)
    target = torch.zeros(
        target_shape, dtype=torch.long if len(target_shape) < len(shape) else torch.float
    )
    value = function(x, target, reduction=reduction, **options)
    if reduction != "none":
        assert value.shape == () and value == 0
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("kind", ("iou", "giou", "diou", "ciou"))
@pytest.mark.parametrize(
    "shapes", (((0, 4), (3, 4)), ((3, 4), (0, 4)), ((0, 5, 4), (3, 4))), ids=str
)
def test_no_pairs(shapes, kind):
    """An empty result, and gradients of 0 for boxes without a partner."""
    boxes = [torch.ones(shape, requires_grad=True) for shape in shapes]
    value = F.pairwise_iou(*boxes, kind=kind)
    assert value.shape == (*shapes[0][:-1], shapes[1][0])
    for x, gradient in zip(boxes, torch.autograd.grad(value.sum(), boxes)):
        assert gradient.shape == x.shape and not gradient.any()


def test_scores_without_classes(triton_kernels):
    """Their gradient is 0 from every implementation, though no element of a row writes it."""
    from fastloss.testing import implementation

    scores = torch.ones(3, requires_grad=True)
    for language in ("reference",) + (() if torch.cuda.is_available() else ("triton",)):
        with implementation(language):
            loss = F.quality_focal_loss(torch.ones(3, 0), (torch.zeros(3).long(), scores))
        assert not torch.autograd.grad(loss.sum(), scores)[0].any()
    loss = F.quality_focal_loss(torch.ones(3, 0), (torch.zeros(3).long(), scores))
    assert not torch.autograd.grad(loss.sum(), scores)[0].any()


def test_scalar_input():
    x = torch.tensor(2.0, requires_grad=True)
    value = F.regression_loss(x, torch.tensor(0.5), kind="l1")
    assert value == 1.5 and torch.autograd.grad(value, x)[0] == 1


@pytest.mark.parametrize("sample", KINDS + LARGE, ids=lambda s: s.name)
def test_inputs_are_not_written(sample):
    before, after = [], []
    sample.map(lambda x: before.append(x.clone()))
    sample.run()
    sample.map(after.append)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after))


@pytest.mark.parametrize("sample", LARGE, ids=lambda s: s.name)
def test_same_bits_for_any_run_and_thread_count(sample):
    rounded = sample.cast(torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            value, gradients = rounded.run()
            results.append((value, *gradients.values()))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(equal(a, b) for a, b in zip(results[0], result))


def test_same_bits_on_many_elements_and_threads():
    """Enough blocks that the work is really shared."""
    x, t = (torch.randn(1_000_003, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    threads = torch.get_num_threads()
    try:
        values = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            values.append(F.regression_loss(x, t, kind="smooth_l1"))
    finally:
        torch.set_num_threads(threads)
    exact = torch.nn.functional.smooth_l1_loss(x.double(), t.double())
    assert equal(values[0], values[1]) and equal(values[0], values[2])
    assert abs(values[0].double() - exact) < 1e-6 * exact


@pytest.mark.parametrize("columns", (5, 300))
def test_same_bits_on_many_pairs_and_threads(columns):
    """Enough tiles along both sides that the work is really shared."""
    g = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 3000 + columns, 2, generator=g)
    boxes = torch.cat((corners, corners + torch.rand(corners.shape, generator=g)), -1)
    a, b = (x.requires_grad_() for x in boxes.split((3000, columns), 1))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            value = F.pairwise_iou(a, b, kind="ciou")
            results.append((value, *torch.autograd.grad(value.sum(), (a, b))))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(equal(x, y) for x, y in zip(results[0], result))


def test_reentrant_from_many_threads():
    sample = LARGE[0].cast(torch.float32)
    expected = sample.run()[0]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(equal(expected, v[0]) for v in pool.map(lambda _: sample.run(), range(40)))


def test_one_element_beyond_a_million_is_not_missed():
    x = torch.zeros(2**20 + 3)
    for position in (0, 2**19 + 7, 2**20, 2**20 + 2):
        y = x.clone()
        y[position] = 1
        assert F.regression_loss(y, x, kind="l1", reduction="sum") == 1


@pytest.mark.full
def test_more_than_two_to_the_31_elements():
    """bfloat16: 4.3 GB each for prediction, target and gradient."""
    count = 2**31 + 3
    x = torch.zeros(count, dtype=torch.bfloat16)
    x[-1], x[2**31] = 1, 1
    x.requires_grad_()
    value = F.regression_loss(x, torch.zeros_like(x), kind="l1", reduction="sum")
    assert value == 2
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient[-1] == 1 and gradient[2**31] == 1 and gradient[0] == 0


@pytest.mark.parametrize("sample", ON_DEVICE, ids=lambda s: s.name)
def test_reference_reads_nothing_on_the_host(sample):
    from fastloss._library import OPS

    with capture() as calls:
        sample.run()
        sample.run(only_first=True)
    for name, args in calls:
        with forbid_host_reads():
            OPS[name].implementations["reference"](*args)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels would be launched on CPU tensors")
@pytest.mark.parametrize("sample", ON_DEVICE, ids=lambda s: s.name)
def test_triton_launchers_read_nothing_on_the_host(sample, triton_kernels, monkeypatch):
    """The host side of the Triton kernels, with the launches themselves left out."""
    from fastloss._triton import _common

    from fastloss._library import OPS

    with capture() as calls:
        sample.run()
        sample.run(only_first=True)
    launched = []
    monkeypatch.setattr(
        _common, "launch", lambda kernel, *args, **constants: launched.append(kernel)
    )
    if "triton" not in OPS[calls[0][0]].implementations:
        pytest.skip(f"{calls[0][0]} has no triton implementation")
    for name, args in calls:
        with forbid_host_reads():
            OPS[name].implementations["triton"](*args)
    assert launched


def test_forbid_host_reads_can_fail():
    x = torch.randn(4)
    for read in (
        lambda: x.sum().item(),
        lambda: x[x > 0],
        lambda: x.nonzero(),
        lambda: bool(x[0] > 0),
    ):
        with pytest.raises(RuntimeError, match="host"), forbid_host_reads():
            read()


@pytest.mark.parametrize("bad", (-1, 4, 2**40, -(2**40)))
def test_class_index_out_of_range_on_the_cpu(bad):
    target = torch.tensor([0, 3, bad, 1])
    with pytest.raises(IndexError, match=rf"\[0, 3\].*got {bad} at index 2"):
        F.sigmoid_focal_loss(torch.zeros(4, 3), target)


def test_class_index_out_of_range_of_other_kernels(triton_kernels):
    """A kernel that cannot raise poisons the row and reads nothing out of bounds."""
    from fastloss.testing import implementation

    x = torch.zeros(4, 3)
    for language in ("reference",) + (() if torch.cuda.is_available() else ("triton",)):
        with implementation(language):
            loss = F.sigmoid_focal_loss(x, torch.tensor([0, 3, -1, 2**40]))
        assert loss[:2].isfinite().all() and loss[2:].isnan().all(), language


def test_debug_checks_before_any_kernel():
    x, target = torch.zeros(4, 3), torch.tensor([0, 3, 9, 1])
    with fastloss.debug(), capture() as ran, pytest.raises(IndexError, match="got 9 at index 2"):
        F.sigmoid_focal_loss(x, target)
    assert not ran
    with fastloss.backend("reference"), pytest.raises(IndexError, match="got 9 at index 2"):
        F.sigmoid_focal_loss(x, target)
    ignored = F.binary_cross_entropy(x, torch.tensor([0, 3, -100, 1]))
    with fastloss.backend("reference"):
        torch.testing.assert_close(
            F.binary_cross_entropy(x, torch.tensor([0, 3, -100, 1])), ignored
        )


@pytest.mark.parametrize(
    "dtype", (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64), ids=str
)
def test_class_indices_of_any_integer_dtype(dtype):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 3, 0])
    assert torch.equal(F.sigmoid_focal_loss(x, target.to(dtype)), F.sigmoid_focal_loss(x, target))


def test_fp16_stays_finite_where_products_overflow():
    x = torch.tensor([[9.39, -20.0, 60000.0, -60000.0]], dtype=torch.float16, requires_grad=True)
    for target in (torch.tensor([0]), torch.tensor([4])):
        loss = F.sigmoid_focal_loss(x, target, reduction="none")
        assert loss.isfinite().all()
        assert torch.autograd.grad(loss.sum(), x)[0].isfinite().all()
