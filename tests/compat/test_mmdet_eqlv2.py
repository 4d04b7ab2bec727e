"""EQLV2Loss against mmdet's: several calls in a row, so that the collected gradients move."""

import pickle

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

N, C = 23, 7
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(N, C + 1, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.arange(N) % (C + 1)


def make(**options):
    return tuple(m.EQLV2Loss(num_classes=C, **options) for m in (mmdet, upstream))


def several_calls(ours, theirs, calls, dtype, tolerance):
    state = theirs.state_dict()

    def library(*args, **kwargs):  # `assert_parity` calls it twice, once in float64
        theirs.load_state_dict(state)
        return theirs(*args, **kwargs)

    for args in calls:
        state = {name: x.clone() for name, x in ours.state_dict().items()}
        assert_parity(ours, library, *args, dtype=dtype)
        for name, x in theirs.state_dict().items():
            torch.testing.assert_close(getattr(ours, name), x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float32, 1e-5), (torch.float64, 2e-7), (torch.bfloat16, 1e-2)],
    ids=str,
)
@pytest.mark.parametrize(
    "options", [{}, {"mu": 0.1, "alpha": 2.0, "gamma": 3, "loss_weight": 2.5}], ids=str
)
def test_calls_in_a_row(options, dtype, tolerance):
    # 100 is far from the ratios that come: the weights change at the second call.
    calls = ((LOGITS, LABELS), (0.5 * LOGITS, LABELS.flip(0)), (LOGITS + 9, LABELS.int() - 3))
    several_calls(*make(**options), calls, dtype, tolerance)


def test_no_rows():
    """NaN, and the buffers are updated with nothing."""
    several_calls(*make(), [(LOGITS[:0], LABELS[:0]), (LOGITS, LABELS)], torch.float32, 1e-5)


@pytest.mark.parametrize("test_with_obj", [True, False])
def test_activation_and_weights(test_with_obj):
    ours, theirs = make(test_with_obj=test_with_obj)
    for loss in (ours, theirs):
        loss(LOGITS, LABELS)
    torch.testing.assert_close(ours.get_activation(LOGITS), theirs.get_activation(LOGITS))
    for a, b in zip(ours.get_weight(LOGITS), theirs.get_weight(LOGITS)):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b)
    assert ours.get_channel_num(C) == theirs.get_channel_num(C)
    assert (ours.n_i, ours.n_c, ours.group) == (theirs.n_i, theirs.n_c, theirs.group)
    state = pickle.loads(pickle.dumps(ours)).state_dict()
    assert all(torch.equal(x, state[name]) for name, x in ours.state_dict().items())


def test_gradients_of_all_processes(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.mul_(2))
    ours, theirs = make(use_distributed=True)
    for loss in (ours, theirs):
        loss(LOGITS.float(), LABELS)
    torch.testing.assert_close(ours.pos_grad, theirs.pos_grad)
    torch.testing.assert_close(ours.neg_grad, theirs.neg_grad)


def test_rare_arguments_have_no_effect():
    plain = make()[0](LOGITS, LABELS)
    assert plain == make(reduction="sum")[0](LOGITS, LABELS, LOGITS, 7, "none")


def test_sum_beyond_float16():
    """The mean over the rows is within, as are mmdet's sums, which are of float32."""
    ours, theirs = make()
    call = (60 * LOGITS).half().repeat(30, 1), LABELS.repeat(30)
    torch.testing.assert_close(ours(*call).float(), theirs(*call), rtol=1e-3, atol=0)


def test_small_integers():
    """The class that a negative label counts to may be beyond the labels' dtype."""
    ours = mmdet.EQLV2Loss(num_classes=299)
    ours(torch.zeros(2, 300), torch.tensor([-128, 5], dtype=torch.int8))
    assert ours.pos_grad.nonzero().flatten().tolist() == [5, 300 - 128]


def test_buffers_stay_where_they_are():
    ours = make()[0]
    before = dict(ours.named_buffers())
    ours(LOGITS, LABELS)
    assert all(x is before[name] for name, x in ours.named_buffers())


@pytest.mark.parametrize("label", [C + 1, -C - 2])
def test_label_out_of_range(label):
    for loss in make():
        with pytest.raises(IndexError, match=f"{label}|{label + C + 1}"):
            loss(LOGITS, torch.full((N,), label))
