"""cross_entropy, CrossEntropyLoss, SegCrossEntropyLoss and MultiLevelSegLoss against vis4d's."""

import pytest
import torch
from parity import assert_parity
from vis4d_cases import DTYPES, LIBRARIES, REDUCERS, ours, reducer, same_error

N, C, H, W = 2, 4, 5, 6
G = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(N, C, H, W, generator=G)
LABELS = torch.randint(0, C, (N, H, W), generator=G)
VOID = torch.where(torch.rand(N, H, W, generator=G) < 0.3, 255, LABELS)
WEIGHTS = [0.5, 0.0, 2.0, 3.0]
CASES = {
    "pixels": (LOGITS, LABELS, {}, None),
    "ignored": (LOGITS, VOID, {}, None),
    "another ignored": (LOGITS, LABELS, {"ignore_index": 2}, None),
    "ignored below 0": (LOGITS, LABELS - 1, {"ignore_index": -1}, None),
    "all ignored": (LOGITS, torch.full_like(LABELS, 255), {}, None),
    "weights": (LOGITS, VOID, {}, WEIGHTS),
    "weights 0": (LOGITS, LABELS, {}, [0.0] * C),
    "rows": (LOGITS[..., 0, 0], LABELS[..., 0, 0], {}, WEIGHTS),
    "one row": (LOGITS[0, :, 0, 0], LABELS[0, 0, 0], {}, WEIGHTS),
    "sequences": (LOGITS[..., 0], VOID[..., 0], {}, None),
    "volumes": (LOGITS.unflatten(3, (2, 3)), VOID.unflatten(2, (2, 3)), {}, WEIGHTS),
    "one class": (LOGITS[:, :1], VOID // 255 * 255, {}, None),
    "large logits": (100 * LOGITS, VOID, {}, WEIGHTS),
    "no images": (LOGITS[:0], LABELS[:0], {}, None),
    "no pixels": (LOGITS[:, :, :0], LABELS[:, :0], {}, WEIGHTS),
}
cases = pytest.mark.parametrize("logits, labels, options, weights", CASES.values(), ids=CASES)
how = pytest.mark.parametrize("how", REDUCERS)


def modules(name, how, *args):
    return [getattr(library, name)(reducer(library, how), *args) for library in LIBRARIES]


def entry(losses, key):
    return [lambda *args, loss=loss, **options: loss(*args, **options)[key] for loss in losses]


@DTYPES
@cases
def test_class(logits, labels, options, weights, dtype):
    for how in REDUCERS if dtype == torch.float32 else ("identity_loss", "mean_loss"):
        losses = modules("CrossEntropyLoss", how, weights)
        assert_parity(*losses, logits, labels, dtype=dtype, **options)


@cases
def test_function(logits, labels, options, weights):
    def call(library):
        def loss(logits, labels):
            w = None if weights is None else torch.tensor(weights, dtype=logits.dtype)
            return library.cross_entropy(logits, labels, w, **options)

        return loss

    assert_parity(*map(call, LIBRARIES), logits, labels)


def test_the_mean_is_over_all_positions():
    loss = ours.CrossEntropyLoss(class_weights=WEIGHTS)
    expected = ours.cross_entropy(LOGITS, VOID, torch.tensor(WEIGHTS)).sum() / VOID.numel()
    torch.testing.assert_close(loss(LOGITS, VOID), expected)
    assert loss(LOGITS, torch.full_like(VOID, 255)) == 0
    assert loss(LOGITS[:0], VOID[:0]).isnan()


@how
def test_reducer_of_the_call(how):
    def call(library):
        loss = library.CrossEntropyLoss()
        return lambda *args: loss(*args, reducer(library, how))

    assert_parity(*map(call, LIBRARIES), LOGITS, VOID)


@pytest.mark.parametrize("how", ["identity_loss", "mean_loss", "sum_loss"])
def test_dtypes_of_the_labels(how):
    for labels in (VOID.int(), VOID.to(torch.uint8)):
        assert_parity(*modules("CrossEntropyLoss", how), LOGITS, labels.detach())
    for labels in (VOID.float() + 0.75, VOID.half(), LABELS > 1):
        values = [loss(LOGITS, labels) for loss in modules("CrossEntropyLoss", how)]
        torch.testing.assert_close(*values)
    assert_parity(
        *modules("CrossEntropyLoss", how), LOGITS, LABELS.to(torch.uint8), ignore_index=-100
    )


@pytest.mark.filterwarnings("ignore:To copy construct:UserWarning")  # upstream's own
@pytest.mark.parametrize("weights", [tuple(WEIGHTS), torch.tensor(WEIGHTS), [1, 0, 2, 3]], ids=str)
def test_class_weights_of_other_types(weights):
    losses = modules("CrossEntropyLoss", "mean_loss", weights)
    assert_parity(*losses, LOGITS, VOID, dtype=torch.float64)


@pytest.mark.parametrize("how", ["identity_loss", "mean_loss"])
def test_ignored_logits_may_be_nan(how):
    logits = torch.where(VOID[:, None] == 255, torch.nan, LOGITS).requires_grad_()
    loss = ours.CrossEntropyLoss(reducer(ours, how))
    value = loss(logits, VOID)
    value.sum().backward()
    assert torch.equal(value, loss(LOGITS, VOID)) and logits.grad.isfinite().all()


SIZES = [(H, W), (H - 2, W), (H, W - 1), (H - 1, W - 3)]


@pytest.mark.parametrize("how", ["identity_loss", "mean_loss"])
@pytest.mark.parametrize("height, width", SIZES)
def test_segmentation(height, width, how):
    labels = VOID[:, :height, :width]
    losses = modules("SegCrossEntropyLoss", how)
    assert_parity(*entry(losses, "loss_seg"), LOGITS, labels)
    assert [list(loss(LOGITS, labels)) for loss in losses] == [["loss_seg"]] * 2


def test_segmentation_ignores():
    labels = torch.where(VOID == 255, 7, VOID)
    losses = entry(modules("SegCrossEntropyLoss", "mean_loss"), "loss_seg")
    assert_parity(*losses, LOGITS, labels, ignore_index=7)


@pytest.mark.parametrize("how", ["mean_loss", "other"])
@pytest.mark.parametrize(
    "index, weights",
    [
        ((0,), None),
        ((1,), [torch.tensor(0.4)]),
        ((2, 0), [0.5, 2.0]),
        ((0, 1, 2), None),
        ((-1, 1), [3, 1]),
    ],
    ids=str,
)
def test_levels(index, weights, how):
    outputs = [LOGITS, 2 * LOGITS[..., :-1], LOGITS.flip(1).contiguous()]
    labels = VOID[:, :-1, :-1]
    losses = modules("MultiLevelSegLoss", how, index, weights)
    names = [f"loss_seg_level{i}" for i in index]
    assert [list(loss(outputs, labels)) for loss in losses] == [names] * 2
    for name in names:
        pair = [lambda *x, loss=loss, name=name: loss(x[:-1], x[-1])[name] for loss in losses]
        assert_parity(*pair, *outputs, labels)


def test_levels_ignore():
    labels = torch.where(VOID == 255, 7, VOID)
    values = [
        loss([LOGITS], labels, 7)["loss_seg_level0"]
        for loss in modules("MultiLevelSegLoss", "mean_loss")
    ]
    torch.testing.assert_close(*values)


def test_strides():
    channels_last = LOGITS.movedim(1, -1).contiguous().movedim(-1, 1)
    for x in (channels_last, LOGITS.mT.contiguous().mT, LOGITS[:, :1].expand(N, C, H, W)):
        assert_parity(*modules("CrossEntropyLoss", "mean_loss"), x, VOID.mT.contiguous().mT)


BAD = LABELS.clone()
BAD[1, 3, 2] = C
ERRORS = {
    "label": (LOGITS, BAD),
    "negative label": (LOGITS, LABELS - 1),
    "label of a row": (LOGITS[..., 0, 0], LABELS[..., 0, 0] + C),
    "images": (LOGITS, LABELS[:1]),
    "images, more": (LOGITS[:1], LABELS),
    "height": (LOGITS[:, :, 1:], LABELS),
    "width": (LOGITS[..., 1:], LABELS),
    "rows": (LOGITS[..., 0, 0], LABELS[:1, 0, 0]),
    "channel of labels": (LOGITS, LABELS[:, None]),
    "one label per logit": (LOGITS, LABELS[:, None].expand(N, C, H, W)),
}


@pytest.mark.parametrize("how", ["identity_loss", "mean_loss"])
@pytest.mark.parametrize("logits, labels", ERRORS.values(), ids=ERRORS)
def test_errors(logits, labels, how):
    same_error(lambda library: library.CrossEntropyLoss(reducer(library, how))(logits, labels))


def test_what_torch_would_refuse_is_a_runtime_error():
    for logits, labels in ((LOGITS.long(), LABELS), (LOGITS, LABELS.to("meta"))):
        with pytest.raises(RuntimeError):
            ours.CrossEntropyLoss()(logits, labels)


@pytest.mark.parametrize("name", ["SegCrossEntropyLoss", "MultiLevelSegLoss"])
@pytest.mark.parametrize("smaller", [LOGITS[:, :, 1:], LOGITS[..., 1:], LOGITS[:1]], ids="HWN")
def test_logits_are_not_smaller(name, smaller):
    smaller = [smaller] if name == "MultiLevelSegLoss" else smaller
    same_error(lambda library: getattr(library, name)()(smaller, LABELS))


@pytest.mark.parametrize("weights", [[1.0], [], WEIGHTS + [1.0]], ids=str)
def test_number_of_class_weights(weights):
    for how in ("identity_loss", "mean_loss"):
        same_error(
            lambda library, how=how: library.CrossEntropyLoss(reducer(library, how), weights)(
                LOGITS, LABELS
            )
        )
