"""LossModule computes losses of the same tensors together: values, reads, and when it does not."""

import math

import pytest
import references
import torch
from parity import assert_as_exact
from test_vis4d_loss_module import connector
from torch import nn

import fastloss
from fastloss import losses as native
from fastloss.compat import smp, vis4d
from fastloss.testing import capture, forbid_host_reads

engine = references.or_skip(references.vis4d_engine)
their_vis4d, their_smp = references.vis4d(), references.or_skip(references.smp)

N, C = 2, 4
G = torch.Generator().manual_seed(0)
X = 2 * torch.randn(N, C, 6, 7, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, C, (N, 6, 7), generator=G)
VOID = torch.where(torch.rand(N, 6, 7, generator=G) < 0.2, 255, LABELS)
MASK = (torch.rand(N, 1, 6, 7, generator=G) < 0.4).double()
WEIGHTS = [0.5, 1.0, 2.0, 0.25]
ARGUMENTS = {"input": "target", "output": "target", "y_pred": "y_true"}
MEAN = {"ignore_index": 255}


def first_argument(loss):
    if isinstance(loss, (vis4d.Loss, their_vis4d.Loss)):
        return "output"
    of_smp = any(
        name in c.__module__ for c in type(loss).__mro__ for name in ("smp", "segmentation_m")
    )
    return "y_pred" if of_smp else "input"


def module(library, losses, weights=None):
    definitions = []
    for loss, weight in zip(losses, weights or [1.0] * len(losses), strict=True):
        first = first_argument(loss)
        made = connector(library, **{first: "p.x", ARGUMENTS[first]: "d.y"})
        definitions.append({"loss": loss, "connector": made, "weight": weight})
    return library.LossModule(definitions)


def evaluate(loss, x, y):
    x = x.detach().clone().requires_grad_()
    total, metrics = loss({"x": x}, {"y": y})
    (gradient,) = torch.autograd.grad(total, x)
    return total.detach(), metrics, gradient


def mine_and_theirs(*names):
    """The losses of fastloss.compat, and those of the libraries; options beside the name."""
    mine, theirs = [], []
    for name, options in names:
        library, name = name.split(".")
        where = {
            "smp": (smp, their_smp), "vis4d": (vis4d, their_vis4d), "nn": (nn, nn),
        }[library]  # fmt: skip
        for made, holder in zip((mine, theirs), where, strict=True):
            given = dict(options)
            if "reducer" in given:
                given["reducer"] = getattr(vis4d if made is mine else their_vis4d, given["reducer"])
            if "tensors" in given:
                given |= {k: torch.tensor(v).double() for k, v in given.pop("tensors").items()}
            made.append(getattr(holder, name)(**given))
    return mine, theirs


MULTI = {"mode": "multiclass", "ignore_index": 255}
PLAIN = {"mode": "multiclass"}
BINARY = {"mode": "binary"}
WEIGHTED = {"label_smoothing": 0.1, "ignore_index": 255, "tensors": {"weight": WEIGHTS}}
# The losses, and the target; the logits are those of all classes, or of one for the mask.
TOGETHER = {
    "bench": ([
        ("vis4d.CrossEntropyLoss", {}),
        ("smp.DiceLoss", MULTI),
        ("smp.FocalLoss", MULTI),
    ], VOID),
    "torch": ([("nn.CrossEntropyLoss", {"ignore_index": 255}), ("smp.JaccardLoss", MULTI)], VOID),
    "twice": ([
        ("smp.DiceLoss", MULTI),
        ("smp.DiceLoss", MULTI | {"classes": [1, 2], "log_loss": True}),
        ("smp.TverskyLoss", MULTI | {"alpha": 0.3, "beta": 0.7, "gamma": 1.5}),
    ], VOID),
    "weights": ([
        ("nn.CrossEntropyLoss", WEIGHTED),
        ("vis4d.CrossEntropyLoss", {"class_weights": WEIGHTS}),
        ("vis4d.CrossEntropyLoss", {"reducer": "sum_loss"}),
        ("smp.FocalLoss", MULTI | {"class_weights": WEIGHTS, "alpha": 0.3}),
    ], VOID),
    "dict": ([
        ("vis4d.SegCrossEntropyLoss", {}),
        ("smp.SoftCrossEntropyLoss", {"smooth_factor": 0.1, "ignore_index": 255}),
    ], VOID),
    "none ignored": ([
        ("smp.DiceLoss", PLAIN),
        ("smp.FocalLoss", PLAIN),
        ("smp.SoftCrossEntropyLoss", {"smooth_factor": 0.0, "ignore_index": None}),
    ], LABELS),
    "sums": ([("nn.CrossEntropyLoss", {"reduction": "sum"}), ("nn.CrossEntropyLoss", {})], LABELS),
    "all ignored": ([
        ("nn.CrossEntropyLoss", {"ignore_index": 255}), ("smp.DiceLoss", MULTI),
    ], torch.full_like(LABELS, 255)),
    "binary": ([
        ("nn.BCEWithLogitsLoss", {}),
        ("smp.DiceLoss", BINARY),
        ("smp.FocalLoss", BINARY),
        ("smp.SoftBCEWithLogitsLoss", {"ignore_index": None}),
    ], MASK),
    "positive": ([
        ("nn.BCEWithLogitsLoss", {"tensors": {"pos_weight": [3.0]}}),
        ("smp.DiceLoss", BINARY | {"smooth": 1.0}),
    ], MASK),
    "elements": ([
        ("nn.MSELoss", {}),
        ("nn.L1Loss", {"reduction": "sum"}),
        ("nn.SmoothL1Loss", {}),
        ("nn.SmoothL1Loss", {"beta": 0.3}),
    ], X.roll(1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", TOGETHER)
def test_as_the_library(case, dtype):
    names, y = TOGETHER[case]
    if dtype != torch.float64 and any("tensors" in options for _, options in names):
        pytest.skip("torch wants the weights in the dtype of the logits")
    mine, theirs = mine_and_theirs(*names)
    weights = [1.0, 0.7, 2.0, 0.3][: len(mine)]
    x = (X[:, :1] if y is MASK else X).to(dtype)
    y = y.to(dtype) if y.is_floating_point() else y
    ours = module(vis4d, mine, weights)
    total, metrics, gradient = evaluate(ours, x, y)
    library = evaluate(module(engine, theirs, weights), x, y)
    exact = y.double() if y.is_floating_point() else y
    truth = evaluate(module(engine, theirs, weights), x.double(), exact)
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


def DICE(**options):
    return smp.DiceLoss("multiclass", **options)


def test_an_ignored_label_that_the_target_cannot_hold():
    ours = module(vis4d, [nn.CrossEntropyLoss(), DICE(), smp.FocalLoss("multiclass")])
    ours({"x": X}, {"y": LABELS.byte()})
    assert "\n" not in ours.plan


@pytest.mark.parametrize("losses,error", [
    ([nn.CrossEntropyLoss(), smp.SoftCrossEntropyLoss(smooth_factor=0.0)], IndexError),
    ([smp.FocalLoss("multiclass"), DICE()], RuntimeError),
])  # fmt: skip
def test_labels_out_of_range(losses, error):
    y = LABELS.clone()
    y[0, 0, 0] = C
    with pytest.raises(error, match=str(C)):
        module(vis4d, losses)({"x": X}, {"y": y})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    losses = [nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS), ignore_index=255), DICE(**MEAN)]
    x = X.to(dtype)
    for chosen, y in ((losses, VOID), ([nn.MSELoss(), nn.L1Loss()], x.roll(1, 0))):
        ours = module(vis4d, chosen)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total, _, gradient = evaluate(ours, x, y)
            alone = sum(loss(x, y) for loss in chosen)
        assert "\n" not in ours.plan and total.dtype == torch.float32 and gradient.dtype == dtype
        torch.testing.assert_close(total, alone.float(), rtol=1e-2, atol=0)


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
