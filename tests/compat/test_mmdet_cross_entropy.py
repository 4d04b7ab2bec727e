"""CrossEntropyLoss, CrossEntropyCustomLoss and their functions against mmdet's."""

import warnings

import pytest
import references
import torch
import torch.nn.functional as F
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

N, C = 23, 7
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(N, C, generator=GENERATOR, dtype=torch.float64)
IDS = torch.randint(0, C, (N,), generator=GENERATOR)
SOME_IGNORED = IDS.where(torch.arange(N) % 3 > 0, 255)
ROWS = torch.rand(N, generator=GENERATOR, dtype=torch.float64)
FULL = torch.rand(N, C, generator=GENERATOR, dtype=torch.float64)
CLASS_WEIGHT = [0.5, 1.0, 2.0, 0.25, 1.5, 3.0, 1.0]
PIXELS = 2 * torch.randn(2, C, 3, 5, generator=GENERATOR, dtype=torch.float64)
PIXEL_IDS = torch.randint(0, C, (2, 3, 5), generator=GENERATOR)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def make(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mmdet.CrossEntropyLoss(**options), upstream.CrossEntropyLoss(**options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, ROWS, -ROWS], ids=["unweighted", "rows", "negative"])
@pytest.mark.parametrize("avg_non_ignore", [False, True])
@pytest.mark.parametrize("use_sigmoid", [False, True])
def test_class(use_sigmoid, avg_non_ignore, weight, reduction, dtype):
    losses = make(
        use_sigmoid=use_sigmoid, reduction=reduction, class_weight=CLASS_WEIGHT, loss_weight=2.5,
        ignore_index=255, avg_non_ignore=avg_non_ignore,
    )  # fmt: skip
    assert_parity(*losses, LOGITS, SOME_IGNORED, weight, dtype=dtype, scale=1.0)


@pytest.mark.parametrize("avg_factor", [None, 11, 0.0, torch.tensor(13.0)], ids=str)
@pytest.mark.parametrize("override", ["none", "mean", "sum"])
@pytest.mark.parametrize("use_sigmoid", [False, True])
def test_avg_factor_and_override(use_sigmoid, override, avg_factor):
    if override == "sum" and avg_factor is not None:
        return
    extra = {"avg_factor": avg_factor, "reduction_override": override}
    assert_parity(*make(use_sigmoid=use_sigmoid, reduction="sum"), LOGITS, IDS, ROWS, **extra)


@pytest.mark.parametrize("use_sigmoid", [False, True])
@pytest.mark.parametrize("avg_non_ignore", [False, True])
def test_all_ignored_and_ignore_index_of_the_call(avg_non_ignore, use_sigmoid):
    losses = make(use_sigmoid=use_sigmoid, avg_non_ignore=avg_non_ignore, ignore_index=3)
    assert_parity(*losses, LOGITS, torch.full_like(IDS, 4), ignore_index=4)
    assert_parity(*losses, LOGITS, IDS)
    assert_parity(*losses, LOGITS, SOME_IGNORED, ROWS, ignore_index=255)


@pytest.mark.parametrize("use_sigmoid", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("avg_factor", [None, 0.0])
def test_no_rows(avg_factor, reduction, use_sigmoid):
    losses = make(use_sigmoid=use_sigmoid, reduction=reduction)
    assert_parity(*losses, LOGITS[:0], IDS[:0], None, avg_factor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", [None, FULL[:2, :1, None]], ids=["unweighted", "images"])
def test_pixels(weight, dtype):
    losses = make(class_weight=CLASS_WEIGHT, avg_non_ignore=True, ignore_index=2)
    assert_parity(*losses, PIXELS, PIXEL_IDS, weight, dtype=dtype)


def test_labels_that_are_probabilities():
    assert_parity(*make(reduction="none", class_weight=CLASS_WEIGHT), LOGITS, FULL.softmax(1))


def test_sigmoid_of_ids_beyond_the_classes():
    # Above C - 1 the row is background, below 0 it counts nothing.
    ids = IDS.clone()
    ids[:4] = torch.tensor([C, C + 5, -1, -100])
    assert_parity(*make(use_sigmoid=True, avg_non_ignore=True), LOGITS, ids)
    assert_parity(*make(use_sigmoid=True), LOGITS, ids, ROWS)
    binary = (ids[:, None] > 2).long()[:, 0]
    assert_parity(*make(use_sigmoid=True, class_weight=[2.0]), LOGITS[:, :1], binary)
    ours, theirs = make(use_sigmoid=True)
    labels = SOME_IGNORED.clamp(max=250).to(torch.uint8)
    torch.testing.assert_close(ours(LOGITS.float(), labels), theirs(LOGITS.float(), labels.long()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("avg_non_ignore", [False, True])
@pytest.mark.parametrize("weight", [None, FULL, ROWS[:, None]], ids=["unweighted", "full", "rows"])
def test_sigmoid_of_dense_labels(weight, avg_non_ignore, dtype):
    label = F.one_hot(IDS, C)
    label[::4, 1], label[1::4, 2] = 255, -1
    losses = make(
        use_sigmoid=True, class_weight=CLASS_WEIGHT, ignore_index=255, avg_non_ignore=avg_non_ignore
    )
    assert_parity(*losses, LOGITS, label, weight, dtype=dtype, scale=1.0)
    assert_parity(*losses, LOGITS, FULL.round(decimals=1).float(), weight, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("class_weight", [None, [2.0], CLASS_WEIGHT[:5]], ids=str)
def test_masks(class_weight, dtype):
    target, ids = (PIXELS[:, 0] > 0).to(dtype), torch.tensor([4, 1])
    losses = make(use_mask=True, class_weight=class_weight, loss_weight=2.0)
    assert_parity(*losses, PIXELS, target, ids, dtype=dtype)
    assert losses[0](PIXELS.float(), target.float(), ids).shape == (1,)
    assert_parity(mmdet.mask_cross_entropy, upstream.mask_cross_entropy, PIXELS, target, ids)


def test_masks_of_nothing():
    losses = make(use_mask=True, class_weight=[2.0])
    for masks in (PIXELS[:0], PIXELS[..., :0]):
        ids = torch.zeros(len(masks), dtype=torch.int64)
        assert_parity(*losses, masks, masks[:, 0], ids)


@pytest.mark.parametrize("use_sigmoid", [False, True])
def test_label_that_an_index_of_uint8_would_wrap_to(use_sigmoid):
    # -100 is 156 in uint8, -1 is 255.
    scores = torch.rand(3, 256, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([156, 255, 7])
    for ignore_index in (None, -1):
        ours, theirs = make(use_sigmoid=use_sigmoid, avg_non_ignore=True, ignore_index=ignore_index)
        torch.testing.assert_close(ours(scores, labels.to(torch.uint8)), theirs(scores, labels))


@pytest.mark.filterwarnings("ignore:To copy construct")
def test_one_number_as_class_weight():
    for class_weight in (2, torch.tensor(2.0), torch.tensor([2.0], requires_grad=True)):
        assert_parity(*make(use_sigmoid=True, class_weight=class_weight), LOGITS, IDS)


def test_one_row_without_a_dimension():
    assert_parity(*make(), LOGITS[0], IDS[0])


def test_repr_and_warning():
    assert repr(mmdet.CrossEntropyLoss()) == "CrossEntropyLoss(avg_non_ignore=False)"
    with pytest.warns(UserWarning, match="avg_non_ignore=True"):
        mmdet.CrossEntropyLoss(ignore_index=255)


@pytest.mark.parametrize("use_sigmoid", [False, True])
def test_custom(use_sigmoid):
    options = {"use_sigmoid": use_sigmoid, "num_classes": C - 1, "class_weight": CLASS_WEIGHT}
    ours, theirs = (
        mmdet.CrossEntropyCustomLoss(**options),
        upstream.CrossEntropyCustomLoss(**options),
    )
    assert_parity(ours, theirs, LOGITS, IDS, ROWS)
    assert ours.get_cls_channels(C - 1) == theirs.get_cls_channels(C - 1)
    scores = LOGITS if not use_sigmoid else LOGITS - 2
    assert_parity(ours.get_activation, theirs.get_activation, scores)
    assert vars(ours).keys() == vars(theirs).keys()


@pytest.mark.parametrize("name", ["CrossEntropyCustomLoss", "FocalCustomLoss"])
def test_accuracy_of_custom_losses(name):
    ours, theirs = (getattr(m, name)(num_classes=C - 1) for m in (mmdet, upstream))
    labels = IDS.where(torch.arange(N) % 2 > 0, LOGITS[:, : C - 1].argmax(1))
    labels[:5] = C - 1  # background, which does not count
    actual, expected = ours.get_accuracy(LOGITS, labels), theirs.get_accuracy(LOGITS, labels)
    assert actual.keys() == expected.keys()
    torch.testing.assert_close(actual["acc_classes"], expected["acc_classes"])
    nothing = ours.get_accuracy(LOGITS, torch.full_like(IDS, C - 1))["acc_classes"]
    assert torch.equal(nothing, torch.zeros(1))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_focal_custom(reduction):
    ours, theirs = (
        m.FocalCustomLoss(num_classes=C, reduction=reduction, activated=True, loss_weight=2.0)
        for m in (mmdet, upstream)
    )
    assert_parity(ours, theirs, LOGITS, IDS, ROWS)
    assert_parity(ours.get_activation, theirs.get_activation, LOGITS)
    assert ours.get_cls_channels(C) == C


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_function(name, dtype):
    label, rows = (IDS, ROWS) if name == "cross_entropy" else (F.one_hot(IDS, C), ROWS[:, None])

    def of(module):
        def call(pred, weight):
            class_weight = pred.new_tensor(CLASS_WEIGHT)
            extra = {"class_weight": class_weight, "ignore_index": None, "avg_non_ignore": True}
            return getattr(module, name)(pred, label, weight, "mean", **extra)

        return call

    assert_parity(of(mmdet), of(upstream), LOGITS, rows, dtype=dtype)
    assert_parity(getattr(mmdet, name), getattr(upstream, name), LOGITS, label, dtype=dtype)


ERRORS = {
    "sigmoid and mask": lambda m: m.CrossEntropyLoss(use_sigmoid=True, use_mask=True),
    "override": lambda m: m.CrossEntropyLoss()(LOGITS, IDS, reduction_override="max"),
    "reduction": lambda m: m.CrossEntropyLoss(reduction="max")(LOGITS, IDS),
    "sum with avg_factor": lambda m: m.CrossEntropyLoss(reduction="sum")(LOGITS, IDS, None, 3),
    "mask sum": lambda m: m.CrossEntropyLoss(use_mask=True, reduction="sum")(
        PIXELS, PIXELS[:, 0], IDS[:2]
    ),
    "mask ignore": lambda m: m.CrossEntropyLoss(use_mask=True)(
        PIXELS, PIXELS[:, 0], IDS[:2], ignore_index=1
    ),
    "label out of range": lambda m: m.CrossEntropyLoss()(LOGITS, IDS + C),
    "number of labels": lambda m: m.CrossEntropyLoss()(LOGITS, IDS[:4]),
    "shape of dense labels": lambda m: m.CrossEntropyLoss(use_sigmoid=True)(LOGITS, FULL[:, :3]),
    "labels of another rank": lambda m: m.CrossEntropyLoss()(LOGITS, F.one_hot(IDS, C)),
    "bool labels": lambda m: m.CrossEntropyLoss()(LOGITS, IDS > 2),
    "number of class weights": lambda m: m.CrossEntropyLoss(class_weight=[1, 2])(LOGITS, IDS),
    "number of positive weights": lambda m: m.CrossEntropyLoss(True, class_weight=[1, 2])(
        LOGITS, IDS
    ),
    "unknown argument": lambda m: m.CrossEntropyLoss()(LOGITS, IDS, tau=1),
    "num_classes": lambda m: m.CrossEntropyCustomLoss(),
    "channels": lambda m: m.CrossEntropyCustomLoss(num_classes=3).get_cls_channels(4),
    "focal num_classes": lambda m: m.FocalCustomLoss(),
    "focal channels": lambda m: m.FocalCustomLoss(num_classes=3).get_cls_channels(4),
}  # fmt: skip


@pytest.mark.parametrize("call", ERRORS.values(), ids=ERRORS)
def test_errors(call):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(theirs.type) as ours:
        call(mmdet)
    assert str(ours.value)
