"""DiceLoss, JaccardLoss and TverskyLoss against smp's."""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import smp

upstream = references.or_skip(references.smp)

N, C = 2, 3
G = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(N, C, 5, 4, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, C, (N, 5, 4), generator=G)
HARD = (torch.rand(N, C, 5, 4, generator=G) < 0.4).double()
SOFT = torch.rand(N, C, 5, 4, generator=G, dtype=torch.float64)
SPARSE = torch.where(LABELS == 1, 0, LABELS)  # class 1 has no pixel
VOID = torch.where(LABELS == 1, 255, LABELS)
CASES = {
    "multiclass": ("multiclass", LOGITS, LABELS, {}),
    "multiclass absent": ("multiclass", LOGITS, SPARSE, {}),
    "multiclass ignored": ("multiclass", LOGITS, VOID, {"ignore_index": 255}),
    "multiclass ignored class": ("multiclass", LOGITS, LABELS, {"ignore_index": 0}),
    "multiclass negative void": (
        "multiclass", LOGITS, torch.where(LABELS == 2, -1, LABELS), {"ignore_index": -1},
    ),
    "multilabel": ("multilabel", LOGITS, HARD, {}),
    "multilabel soft": ("multilabel", LOGITS, SOFT, {}),
    "multilabel ignored": (
        "multilabel", LOGITS, torch.where(SOFT < 0.2, 255, HARD.long()), {"ignore_index": 255},
    ),
    "multilabel ignored soft": (
        "multilabel", LOGITS, torch.where(SOFT < 0.2, -1.0, SOFT), {"ignore_index": -1},
    ),
    "binary": ("binary", LOGITS[:, :1], HARD[:, :1], {}),
    "binary soft": ("binary", LOGITS[:, 0], SOFT[:, 0], {}),
    "binary mixed shapes": ("binary", LOGITS[:, :1], HARD[:, 0].long(), {}),
    "binary ignored": (
        "binary", LOGITS[:, :1], torch.where(SOFT[:, 0] < 0.3, 255, 1), {"ignore_index": 255},
    ),
}  # fmt: skip
LOSSES = {
    "DiceLoss": [{}],
    "JaccardLoss": [{}],
    "TverskyLoss": [{"alpha": 0.3, "beta": 0.8, "gamma": 1.5}],
}
NAMES = list(LOSSES)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def make(name, mode, **options):
    if name == "TverskyLoss":
        options = {"alpha": 0.3, "beta": 0.8, "gamma": 1.5, **options}
    return getattr(smp, name)(mode, **options), getattr(upstream, name)(mode, **options)


def compare(name, case, dtype=torch.float64, **options):
    mode, logits, target, own = CASES[case]
    if options.get("from_logits") is False:
        logits = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    assert_parity(*make(name, mode, **own, **options), logits, target, dtype=dtype, scale=1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_modes(name, case, dtype):
    compare(name, case, dtype)


@pytest.mark.parametrize("options", [
    {"log_loss": True},
    {"smooth": 1.5},
    {"smooth": 0.5, "log_loss": True, "from_logits": False},
    {"eps": 30.0},  # above the denominator
    {"eps": 0.3, "log_loss": True},  # above some scores
    {"from_logits": False},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_options(name, case, options):
    compare(name, case, **options)


@pytest.mark.parametrize("options", [
    {"classes": [2]},
    {"classes": [1, 1, -1]},
    {"classes": (0, 2), "class_weights": [1.0, 5.0, 2.5]},
    {"classes": torch.tensor([1]), "class_weights": torch.tensor([1.0, 5.0, 2.5])},
    {"class_weights": [0.0, 5.0, 2.5], "log_loss": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("case", [case for case in CASES if "binary" not in case])
@pytest.mark.parametrize("name", NAMES)
def test_classes_and_weights(name, case, options):
    compare(name, case, **options)


@pytest.mark.parametrize("options", [{"class_weights": [0, 0, 0]}, {"classes": []}], ids=str)
def test_no_class_is_nan(options):
    ours, theirs = make("DiceLoss", "multiclass", **options)
    assert ours(LOGITS, LABELS).isnan() and theirs(LOGITS, LABELS).isnan()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2, 3.0])
@pytest.mark.parametrize("options", [{}, {"class_weights": [1.0, 0.5, 2.0]}], ids=str)
def test_gamma_of_tversky(gamma, options):
    compare("TverskyLoss", "multiclass", gamma=gamma, **options)


@pytest.mark.parametrize("spatial", [(), (7,), (1,), (2, 3, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_dimensions(name, mode, spatial):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(N, C, *spatial, generator=g, dtype=torch.float64)
    labels = torch.randint(0, C, (N, *spatial), generator=g)
    target = labels if mode == "multiclass" else (logits.roll(1, 0) > 0).long()
    assert_parity(*make(name, mode), logits, target, dtype=torch.float64)
    if mode == "multiclass":
        assert_parity(*make(name, mode), logits, target[:, None], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.bool], ids=str)
@pytest.mark.parametrize("case", ["multiclass", "multiclass ignored", "multilabel", "binary"])
def test_dtypes_of_the_target(case, dtype):
    mode, logits, target, own = CASES[case]
    if dtype == torch.bool and mode == "multiclass":
        target = target % 2
        own = {"ignore_index": 255}  # without one, smp takes int64 alone
    ours, theirs = make("DiceLoss", mode, **own)
    given = target.to(dtype)
    expected = theirs(logits, given.long())
    assert torch.allclose(ours(logits, given), expected, rtol=1e-12)


def test_float_class_ids_with_an_ignore_index():
    ours, theirs = make("DiceLoss", "multiclass", ignore_index=255)
    assert torch.allclose(ours(LOGITS, VOID.double()), theirs(LOGITS, VOID.double()), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_all_ignored(mode, name):
    target = torch.full_like(LABELS if mode == "multiclass" else LOGITS.long(), 255)
    assert_parity(*make(name, mode, ignore_index=255), LOGITS, target, dtype=torch.float64)
    ours, _ = make(name, mode, ignore_index=255)
    wild = torch.full_like(LOGITS, torch.nan, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(wild, target), wild)
    assert not gradient.any()


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("case", ["multiclass", "multilabel soft", "binary"])
@pytest.mark.parametrize("name", NAMES)
def test_huge_logits(name, case, scale):
    mode, logits, target, own = CASES[case]
    for log_loss in (False, True):
        losses = make(name, mode, log_loss=log_loss, smooth=0.1, **own)
        assert_parity(*losses, logits * scale, target, dtype=torch.float64, scale=1.0)


def layouts(x):
    yield x.movedim(1, -1).contiguous().movedim(-1, 1)  # channels-last
    yield x.mT.contiguous().mT
    yield torch.stack((x, x), -1)[..., 0]
    yield x[:1].expand(x.shape)


@pytest.mark.parametrize("case", ["multiclass", "multilabel", "binary soft"])
def test_strides(case):
    mode, logits, target, own = CASES[case]
    for x in layouts(logits):
        for t in layouts(target):
            assert_parity(*make("DiceLoss", mode, **own), x, t, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_target_of_another_float_dtype(dtype):
    ours, theirs = make("DiceLoss", "multilabel")
    ours_t, theirs_t = (SOFT.to(dtype).clone().requires_grad_() for _ in range(2))
    x = LOGITS.float()
    value, expected = ours(x, ours_t), theirs(x, theirs_t)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    value.backward(), expected.backward()
    torch.testing.assert_close(ours_t.grad, theirs_t.grad, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_nothing(mode, name):
    """No pixels: as smp. No images, which smp refuses: 0."""
    ours, theirs = make(name, mode)
    x, t = LOGITS[..., :0], (LABELS if mode == "multiclass" else HARD)[..., :0]
    assert_parity(ours, theirs, x, t, dtype=torch.float64)
    x = LOGITS[:0].clone().requires_grad_()
    value = ours(x, (LABELS if mode == "multiclass" else HARD)[:0])
    assert value == 0 and torch.autograd.grad(value, x)[0].shape == x.shape


ERRORS = {
    "batch": (lambda m: m.DiceLoss("binary")(LOGITS, HARD[:1]), "batch size of y_pred, 2, got 1"),
    "binary": (lambda m: m.DiceLoss("binary")(LOGITS, HARD[:, :1]), r"got \(2, 1, 5, 4\)"),
    "binary with ignore_index": (
        lambda m: m.DiceLoss("binary", ignore_index=2)(LOGITS, HARD[:, :2]), "shape",
    ),
    "multiclass": (lambda m: m.JaccardLoss("multiclass")(LOGITS, LABELS[:, :3]), r"\(2, 5, 4\)"),
    "multiclass with ignore_index": (
        lambda m: m.JaccardLoss("multiclass", ignore_index=2)(LOGITS, LABELS[:, :3]), "shape",
    ),
    "multilabel": (lambda m: m.TverskyLoss("multilabel")(LOGITS, HARD[:, :, :3]), "shape"),
    "multilabel with ignore_index": (
        lambda m: m.TverskyLoss("multilabel", ignore_index=2)(LOGITS, HARD[:, :, :3]), "shape",
    ),
    "label above": (lambda m: m.DiceLoss("multiclass")(LOGITS, LABELS + 1), r"\[0, 2\]; got 3"),
    "label below": (lambda m: m.DiceLoss("multiclass")(LOGITS, LABELS - 1), r"\[0, 2\]; got -1"),
    "label above, with ignore_index": (
        lambda m: m.DiceLoss("multiclass", ignore_index=7)(LOGITS, LABELS + 1), "got 3",
    ),
    "float labels": (
        lambda m: m.DiceLoss("multiclass")(LOGITS, LABELS.float()), "got torch.float32",
    ),
    "bool labels": (
        lambda m: m.DiceLoss("multiclass")(LOGITS, LABELS.bool()), "got torch.bool",
    ),
    "class": (lambda m: m.DiceLoss("multiclass", classes=[3])(LOGITS, LABELS), "index"),
    "weights": (
        lambda m: m.DiceLoss("multiclass", class_weights=[1.0, 2.0])(LOGITS, LABELS),
        r"one weight for each of the 3 classes, got \(2,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(smp)
    assert ours.type is theirs.type


def test_attributes_count_and_weights_may_change():
    ours, theirs = make("DiceLoss", "multiclass", class_weights=[1.0, 2.0, 3.0])
    for name, value in {
        "smooth": 2.0,
        "log_loss": True,
        "class_weights": torch.tensor([3.0, 1.0, 1.0]),
        "classes": torch.tensor([0, 1]),
    }.items():
        ours(LOGITS, LABELS)
        setattr(ours, name, value)
        setattr(theirs, name, value)
        assert_parity(ours, theirs, LOGITS, LABELS, dtype=torch.float64)
    assert_parity(ours, theirs, LOGITS[:, :2], LABELS % 2, dtype=torch.float64)


@pytest.mark.gpu
def test_weights_are_copied_to_the_device_once():
    ours, theirs = make("DiceLoss", "multiclass", class_weights=[1.0, 2.0, 3.0], classes=[0, 2])
    x, t = LOGITS.float().cuda(), LABELS.cuda()
    torch.testing.assert_close(ours(x, t), theirs(x, t))
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours(x, t)
    finally:
        torch.cuda.set_sync_debug_mode("default")
