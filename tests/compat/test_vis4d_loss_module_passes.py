"""LossModule computes losses of the same tensors together: values, reads, modes of calling it."""

import math

import pytest
import torch
from loss_module_cases import (
    LABELS,
    MASK,
    TOGETHER,
    VOID,
    WEIGHTS,
    C,
    X,
    engine,
    evaluate,
    mine_and_theirs,
    module,
)
from parity import assert_as_exact
from torch import nn

import fastloss
from fastloss import losses as native
from fastloss.compat import smp, vis4d
from fastloss.testing import capture, forbid_host_reads


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", TOGETHER)
def test_as_the_library(case, dtype):
    names, y = TOGETHER[case]
    mine, theirs = mine_and_theirs(*names, dtype=dtype)
    _, exact_losses = mine_and_theirs(*names)
    weights = [1.0, 0.7, 2.0, 0.3][: len(mine)]
    x = (X[:, :1] if y is MASK else X).to(dtype)
    y = y.to(dtype) if y.is_floating_point() else y
    ours = module(vis4d, mine, weights)
    total, metrics, gradient = evaluate(ours, x, y)
    library = evaluate(module(engine, theirs, weights), x, y)
    exact = y.double() if y.is_floating_point() else y
    truth = evaluate(module(engine, exact_losses, weights), x.double(), exact)
    assert ours.plan.count("\n") == 0 and "one pass" in ours.plan
    assert list(metrics) == list(truth[1])
    assert_as_exact(total, library[0], truth[0], dtype, scale=1.0)
    assert_as_exact(gradient, library[2], truth[2], dtype)
    for key in metrics:
        values = [
            torch.tensor(m[key], dtype=torch.float64) for m in (metrics, library[1], truth[1])
        ]
        assert_as_exact(*values, dtype, scale=1.0)


@pytest.mark.parametrize("case", TOGETHER)
def test_as_alone(case):
    """Each loss of the module gives what it gives by itself."""
    names, y = TOGETHER[case]
    mine, _ = mine_and_theirs(*names)
    x = X[:, :1] if y is MASK else X
    _, metrics, gradient = evaluate(module(vis4d, mine), x, y)
    expected, slopes = [], []
    for loss in mine:
        total, _, slope = evaluate(module(vis4d, [loss]), x, y)
        expected.append(float(total))
        slopes.append(slope)
    assert list(metrics.values())[:-1] == pytest.approx(expected, rel=1e-13, abs=1e-13, nan_ok=True)
    torch.testing.assert_close(gradient, sum(slopes), rtol=1e-12, atol=1e-14, equal_nan=True)


NATIVE = [
    native.CrossEntropyLoss(ignore_index=255),
    native.DiceLoss(ignore_index=255),
    native.JaccardLoss(ignore_index=255, per_image=True),
    native.TverskyLoss(0.3, 0.7, ignore_index=255),
    native.SoftmaxFocalLoss(ignore_index=255),
    native.MCCLoss(mode="multiclass", ignore_index=255),
    smp.DiceLoss("multiclass", ignore_index=255),
]


def test_native_losses():
    ours = module(vis4d, NATIVE)
    _, metrics, gradient = evaluate(ours, X, VOID)
    assert "\n" not in ours.plan and ours.plan.endswith("one pass over the logits")
    x = X.clone().requires_grad_()
    values = [loss(x, VOID) for loss in NATIVE]
    assert list(metrics.values())[:-1] == pytest.approx([v.item() for v in values], rel=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(sum(values), x)[0])


def ops_of(loss, x, y):
    """The fastloss ops of forward and backward that read x."""
    x = x.detach().clone().requires_grad_()
    with capture() as calls:
        loss({"x": x}, {"y": y})[0].backward()
    start = x.untyped_storage().data_ptr()
    return [
        name
        for name, arguments in calls
        if any(
            isinstance(a, torch.Tensor) and a.untyped_storage().data_ptr() == start
            for a in arguments
        )
    ]


@pytest.mark.parametrize("case", TOGETHER)
def test_one_read_forward_and_one_backward(case):
    names, y = TOGETHER[case]
    op = "regression_terms" if case == "elements" else "segmentation_table"
    ours = module(vis4d, mine_and_theirs(*names)[0])
    assert ops_of(ours, X[:, :1] if y is MASK else X, y) == [op, f"{op}_backward"]


kernels = pytest.mark.skipif(
    fastloss.backends()["segmentation_table"]["cpu"] != "C++", reason="counts what C++ reads"
)


@kernels
def test_bytes_read_and_written():
    x = torch.randn(2, C, 97, 101, requires_grad=True)
    y = torch.randint(0, C, (2, 97, 101))
    size, traffic = x.numel() * x.element_size(), torch.ops.fastloss._traffic
    ours = module(vis4d, mine_and_theirs(*TOGETHER["bench"][0])[0])
    traffic()
    total, _ = ours({"x": x}, {"y": y})
    assert traffic() == [size, 0]
    total.backward()
    assert traffic() == [size, size]


def test_no_host_reads_before_the_metrics_are_looked_at():
    ours = module(vis4d, mine_and_theirs(*TOGETHER["bench"][0])[0])
    x = X.clone().requires_grad_()
    with forbid_host_reads():
        total, metrics = ours({"x": x}, {"y": VOID})
        total.backward()
        assert len(metrics) == 4
    assert metrics["loss"] == total.item()


def test_an_ignored_label_that_the_target_cannot_hold():
    ours = module(
        vis4d, [nn.CrossEntropyLoss(), smp.DiceLoss("multiclass"), smp.FocalLoss("multiclass")]
    )
    ours({"x": X}, {"y": LABELS.byte()})
    assert "\n" not in ours.plan


@pytest.mark.parametrize("losses,error", [
    ([nn.CrossEntropyLoss(), smp.SoftCrossEntropyLoss(smooth_factor=0.0)], IndexError),
    ([smp.FocalLoss("multiclass"), smp.DiceLoss("multiclass")], RuntimeError),
])  # fmt: skip
def test_labels_out_of_range(losses, error):
    y = LABELS.clone()
    y[0, 0, 0] = C
    with pytest.raises(error, match=str(C)):
        module(vis4d, losses)({"x": X}, {"y": y})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    losses = [
        nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), ignore_index=255),
        smp.DiceLoss("multiclass", ignore_index=255),
    ]
    x = X.to(dtype)
    for chosen, y in ((losses, VOID), ([nn.MSELoss(), nn.L1Loss()], x.roll(1, 0))):
        ours = module(vis4d, chosen)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total, _, gradient = evaluate(ours, x, y)
            alone = sum(loss(x, y) for loss in chosen)
        assert "\n" not in ours.plan and total.dtype == torch.float32 and gradient.dtype == dtype
        torch.testing.assert_close(total, alone.float(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("case", ["bench", "elements"])
def test_compiled_without_a_graph_break(case):
    names, y = TOGETHER[case]
    ours = module(vis4d, mine_and_theirs(*names)[0])
    expected = evaluate(ours, X, y)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    total, metrics, gradient = evaluate(compiled, X, y)
    torch.testing.assert_close((total, gradient), (expected[0], expected[2]))
    assert metrics == pytest.approx(expected[1])


@pytest.mark.parametrize("x,y,autocast,together", [
    (torch.float32, torch.float64, False, False),
    (torch.bfloat16, torch.float32, False, False),
    (torch.float64, torch.float32, False, False),
    (torch.float64, torch.float64, False, True),
    (torch.bfloat16, torch.float32, True, True),
    (torch.float32, torch.float64, True, False),
], ids=str)  # fmt: skip
def test_a_shared_pass_keeps_the_dtype(x, y, autocast, together):
    """Torch's binary cross entropy has the dtype of the target."""
    losses = [nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss(reduction="sum")]
    ours, theirs = module(vis4d, losses), module(engine, losses)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        total, expected = (m({"x": X[:, :1].to(x)}, {"y": MASK.to(y)})[0] for m in (ours, theirs))
    assert total.dtype == expected.dtype and ("one pass" in ours.plan) == together


def test_reference_backend_has_second_derivatives():
    ours = module(vis4d, mine_and_theirs(*TOGETHER["bench"][0])[0])
    x = X.clone().requires_grad_()
    with fastloss.backend("reference"):
        total, _ = ours({"x": x}, {"y": VOID})
        (slope,) = torch.autograd.grad(total, x, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), x)
    assert math.isfinite(float(second.sum()))
