"""LovaszSoftmax against an oracle in float64."""

import logging

import gdl_oracle
import pytest
import torch
from parity import assert_parity

from fastloss.compat import gdl
from fastloss.testing.samples.lovasz import softmax_input

N, C = 3, 4
G = torch.Generator().manual_seed(0)
# The gradient depends on the order of the errors: these are apart in every dtype.
LOGITS, LABELS = softmax_input((N, 5, 4), C, G)
VOID = torch.where(torch.rand(N, 5, 4, generator=G) < 0.3, 255, LABELS)
SPARSE = torch.where(LABELS == 1, 0, LABELS)  # class 1 has no pixel
DARK = VOID.clone()
DARK[1] = 255  # an image without valid pixels
CASES = {
    "default": (LOGITS, LABELS, {}),
    "absent class": (LOGITS, SPARSE, {}),
    "all classes": (LOGITS, SPARSE, {"only_present": False}),
    "ignored": (LOGITS, VOID, {"ignore_index": 255}),
    "ignored class": (LOGITS, LABELS, {"ignore_index": 2}),
    "ignored 0": (LOGITS, LABELS, {"ignore_index": 0, "only_present": False}),
    "label of no class": (LOGITS, VOID, {}),
    "no class present": (LOGITS, LABELS + C, {}),
    "no class present, all classes": (LOGITS, LABELS + C, {"only_present": False}),
    "image of ignored pixels": (LOGITS, DARK, {"ignore_index": 255}),
    "image of ignored pixels, all classes": (
        LOGITS, DARK, {"ignore_index": 255, "only_present": False},
    ),
    "all ignored": (LOGITS, torch.full_like(LABELS, 255), {"ignore_index": 255}),
    "one class": (LOGITS[:, :1], torch.zeros_like(LABELS), {}),
    "one pixel": (LOGITS[:1, :, :1, :1], LABELS[:1, :1, :1], {}),
    "constant logits": (torch.ones_like(LOGITS), LABELS, {}),
    "volumes": (LOGITS.unflatten(3, (2, 2)), LABELS.unflatten(2, (2, 2)), {}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype):
    logits, labels, options = CASES[case]

    def oracle(x, y):
        return gdl_oracle.lovasz_softmax(x, y, **options)

    assert_parity(gdl.LovaszSoftmax(**options), oracle, logits, labels, dtype=dtype, scale=0.1)


def test_an_image_of_ignored_pixels_counts_in_the_mean():
    loss = gdl.LovaszSoftmax(ignore_index=255)
    others = [loss(LOGITS[i : i + 1], DARK[i : i + 1]) for i in (0, 2)]
    assert loss(LOGITS[1:2], DARK[1:2]) == 0
    torch.testing.assert_close(loss(LOGITS, DARK), sum(others) / 3)


def test_ignored_pixels_may_be_nan():
    logits = torch.where(DARK[:, None] == 255, torch.nan, LOGITS).requires_grad_()
    loss = gdl.LovaszSoftmax(ignore_index=255)
    value = loss(logits, DARK)
    assert value == loss(LOGITS, DARK)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_no_image_is_zero_with_a_graph():
    logits = LOGITS[:0].clone().requires_grad_()
    value = gdl.LovaszSoftmax()(logits, LABELS[:0])
    value.backward()
    assert value == 0 and logits.grad.shape == logits.shape


def test_shapes_and_dtypes_of_the_labels():
    loss = gdl.LovaszSoftmax(ignore_index=255)
    expected = loss(LOGITS, VOID)
    for labels in (VOID[:, None], VOID.flatten(1), VOID.to(torch.uint8), VOID.float(), VOID.int()):
        assert loss(LOGITS, labels) == expected


def test_strides():
    channels_last = LOGITS.movedim(1, -1).contiguous().movedim(-1, 1)
    for x in (channels_last, LOGITS.mT.contiguous().mT):
        for y in (LABELS, LABELS.mT.contiguous().mT):
            oracle = gdl_oracle.lovasz_softmax
            assert_parity(gdl.LovaszSoftmax(), oracle, x, y, dtype=torch.float64)


def test_weight_is_kept_and_not_used(caplog):
    with caplog.at_level(logging.WARNING):
        loss = gdl.LovaszSoftmax(weight=[1.0, 2.0, 3.0, 4.0])
    assert "does not use weight" in caplog.text
    assert loss.weight == [1.0, 2.0, 3.0, 4.0]
    assert loss(LOGITS, LABELS) == gdl.LovaszSoftmax()(LOGITS, LABELS)


@pytest.mark.parametrize("labels", [LABELS[:, 1:], LABELS[:1], LABELS.reshape(-1)])
def test_errors(labels):
    with pytest.raises(RuntimeError, match="labels must have the shape"):
        gdl.LovaszSoftmax()(LOGITS, labels)
