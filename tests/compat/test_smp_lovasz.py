"""LovaszLoss against smp's.

smp's own weights are float32, so that it refuses float64 logits: for the truth, and for float64,
`Tensor.float` is made to give float64.
"""

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import smp
from fastloss.testing.samples.lovasz import softmax_input

upstream = references.or_skip(references.smp)

N, C = 2, 3
G = torch.Generator().manual_seed(0)
# The gradient depends on the order of the errors: these are apart in every dtype.
LOGITS, LABELS = softmax_input((N, 5, 4), C, G)
VOID = torch.where(torch.rand(N, 5, 4, generator=G) < 0.3, 255, LABELS)
SPARSE = torch.where(LABELS == 1, 0, LABELS)  # class 1 has no pixel
SCORES = ((torch.randperm(N * C * 20, generator=G) - 60).double() / 32 + 1 / 128).view(N, C, 5, 4)
HARD = (torch.rand(N, C, 5, 4, generator=G) < 0.4).long()
SOFT = torch.rand(N, C, 5, 4, generator=G, dtype=torch.float64)
CASES = {
    "multiclass": ("multiclass", LOGITS, LABELS, {}),
    "multiclass absent": ("multiclass", LOGITS, SPARSE, {}),
    "multiclass ignored": ("multiclass", LOGITS, VOID, {"ignore_index": 255}),
    "multiclass ignored class": ("multiclass", LOGITS, LABELS, {"ignore_index": 1}),
    "multiclass no class": ("multiclass", LOGITS, torch.where(LABELS == 1, 9, LABELS), {}),
    "multilabel": ("multilabel", SCORES, HARD, {}),
    "multilabel float": ("multilabel", SCORES, HARD.double(), {}),
    "multilabel soft": ("multilabel", SCORES, SOFT, {}),
    "binary": ("binary", SCORES[:, :1], HARD[:, 0], {}),
    "binary ignored": (
        "binary", SCORES[:, :1], torch.where(SCORES[:, :1].abs() < 0.3, 255, 1),
        {"ignore_index": 255},
    ),
    "binary ignored soft": (
        "binary", SCORES[:, 0], torch.where(HARD[:, 0] == 1, -1, SOFT[:, 0]), {"ignore_index": -1},
    ),
    "binary empty": ("binary", SCORES, torch.zeros_like(HARD), {}),
    "binary full": ("binary", SCORES, torch.ones_like(HARD), {}),
}  # fmt: skip


def make(mode, **options):
    """The float64 of smp needs float64 weights."""
    theirs = upstream.LovaszLoss(mode, **options)

    def with_wide_weights(y_pred, y_true):
        if y_pred.dtype != torch.float64:
            return theirs(y_pred, y_true)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            return theirs(y_pred, y_true)

    return smp.LovaszLoss(mode, **options), with_wide_weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_modes(case, per_image, dtype):
    mode, logits, target, own = CASES[case]
    if dtype == torch.bfloat16 and mode == "multiclass":
        pytest.skip("smp multiplies bfloat16 errors by float32 weights, which torch refuses")
    options = {"per_image": per_image, **own}
    assert_parity(*make(mode, **options), logits, target, dtype=dtype, scale=0.1)


@pytest.mark.parametrize("case", ["multiclass", "multiclass ignored"])
def test_bfloat16_is_float32_rounded(case):
    mode, logits, target, own = CASES[case]
    ours, _ = make(mode, **own)
    value = ours(logits.bfloat16(), target)
    torch.testing.assert_close(value, ours(logits.float(), target).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("spatial", [(), (7, 1), (1, 1), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_any_number_of_dimensions(mode, per_image, spatial):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(N, C, *spatial, generator=g, dtype=torch.float64)
    labels = torch.randint(0, C, (N, *spatial), generator=g)
    target = labels if mode == "multiclass" else (logits.roll(1, 0) > 0).long()
    if mode == "multiclass" and per_image and not spatial:
        pytest.skip("smp takes (1, C) logits of a pixel for C pixels")
    assert_parity(*make(mode, per_image=per_image), logits, target, dtype=torch.float64)


def test_one_spatial_dimension():
    """smp takes the classes of (N, C, L) for rows of pixels and stops."""
    ours, theirs = make("multiclass", per_image=True)
    with pytest.raises(ValueError, match="1 class"):
        theirs(LOGITS.flatten(2), LABELS[..., None].expand(-1, -1, -1, C))
    assert ours(LOGITS.flatten(2), LABELS.flatten(1)) == ours(LOGITS, LABELS)


def test_shapes_of_the_target():
    for per_image in (False, True):
        for case in ("multiclass", "multilabel", "binary"):
            mode, logits, target, _ = CASES[case]
            for shape in ((N, -1), (N, 1, -1), (N, 4, -1)):
                losses = make(mode, per_image=per_image)
                assert_parity(*losses, logits, target.reshape(shape), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32, torch.bool], ids=str)
@pytest.mark.parametrize("case", ["multiclass", "multiclass ignored", "multilabel", "binary"])
def test_dtypes_of_the_target(case, dtype):
    mode, logits, target, own = CASES[case]
    given = (target % 2 if dtype == torch.bool else target).to(dtype)
    ours, theirs = make(mode, **own)
    torch.testing.assert_close(ours(logits, given), theirs(logits, given.long()))


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_all_ignored(mode, per_image):
    """0 and a gradient of 0, where smp has an empty tensor for "multiclass"."""
    logits = torch.full_like(LOGITS, torch.nan, requires_grad=True)
    target = torch.full_like(LABELS if mode == "multiclass" else HARD, 255)
    ours, theirs = make(mode, per_image=per_image, ignore_index=255)
    value = ours(logits, target)
    assert value == 0 and value.dim() == 0
    assert not torch.autograd.grad(value, logits)[0].any()
    if mode != "multiclass":
        assert_parity(ours, theirs, SCORES, target, dtype=torch.float64)


def test_an_image_of_ignored_pixels_counts():
    target = VOID.clone()
    target[0] = 255
    ours, _ = make("multiclass", per_image=True, ignore_index=255)
    alone, _ = make("multiclass", ignore_index=255)
    torch.testing.assert_close(ours(LOGITS, target), alone(LOGITS[1:], VOID[1:]) / 2)


def test_no_class_is_present_and_no_image():
    logits = LOGITS.clone().requires_grad_()
    for mode in ("multiclass", "binary"):
        ours, _ = make(mode, per_image=True)
        for value in (ours(logits[:0], HARD[:0] if mode == "binary" else LABELS[:0]),
                      make("multiclass")[0](logits, LABELS + 7)):  # fmt: skip
            assert value == 0 and not torch.autograd.grad(value, logits)[0].any()


@pytest.mark.parametrize("scale", [100.0, 1e4, 1e30])
@pytest.mark.parametrize("case", ["multiclass", "multilabel"])
def test_huge_logits(case, scale):
    mode, logits, target, _ = CASES[case]
    ours, theirs = make(mode)
    torch.testing.assert_close(ours(logits * scale, target), theirs(logits * scale, target))


def test_strides():
    for case in ("multiclass", "multilabel soft"):
        mode, logits, target, _ = CASES[case]
        channels_last = logits.movedim(1, -1).contiguous().movedim(-1, 1)
        for x in (channels_last, logits.mT.contiguous().mT):
            for t in (target, target.mT.contiguous().mT):
                assert_parity(*make(mode), x, t, dtype=torch.float64)


ERRORS = {
    "one class": (
        lambda m: m.LovaszLoss("multiclass")(LOGITS[:, :1].float(), LABELS * 0), "one class",
    ),
    "binary": (lambda m: m.LovaszLoss("binary")(SCORES, HARD[:, :2]), "120 elements"),
    "binary with ignore_index": (
        lambda m: m.LovaszLoss("binary", ignore_index=2)(SCORES, HARD[:, :2]), "120 elements",
    ),
    "multiclass": (lambda m: m.LovaszLoss("multiclass")(LOGITS, LABELS[:, :3]), "40 elements"),
    "multiclass with ignore_index": (
        lambda m: m.LovaszLoss("multiclass", ignore_index=2)(LOGITS, LABELS[:, :3]), "40 elements",
    ),
}  # fmt: skip


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(smp)
    assert ours.type is theirs.type
