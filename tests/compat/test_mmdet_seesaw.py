"""SeesawLoss and seesaw_ce_loss against mmdet's."""

import copy

import pytest
import references
import torch
from parity import assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

N, C = 17, 6
GENERATOR = torch.Generator().manual_seed(0)
SCORES = 2 * torch.randn(N, C + 2, generator=GENERATOR, dtype=torch.float64)
# Some classes often, one never, some background.
LABELS = torch.tensor([0] * 6 + [1] * 3 + [2, 3, 4, C, C, C, 1, 0])
OTHERS = LABELS.roll(5).clamp(min=1)
WEIGHT = torch.rand(N, generator=GENERATOR, dtype=torch.float64)


def make(**options):
    return mmdet.SeesawLoss(num_classes=C, **options), upstream.SeesawLoss(num_classes=C, **options)


def joined(loss, *calls):
    """The results of several calls in a row, whose counts add up, as one vector."""

    def run(scores, weight, *rest):
        copied = copy.deepcopy(loss).to(scores.dtype)
        results = [copied(scores, labels, weight, *rest) for labels in calls]
        results = [x for r in results for x in (r.values() if isinstance(r, dict) else (r,))]
        parts = [x.reshape(-1) for x in results]
        return torch.cat((*parts, copied.cum_samples))

    return run


def assert_same(losses, scores, weight, *rest, calls=(LABELS, OTHERS, LABELS), **options):
    ours, theirs = (joined(loss, *calls) for loss in losses)
    assert_parity(ours, theirs, scores, weight, *rest, scale=1.0, rounds=True, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["ones", "weights"])
def test_calls_in_a_row(weight, reduction, dtype):
    losses = make(reduction=reduction, loss_weight=2.5)
    # mmdet's weights are of float32, also beside float64 scores.
    weight = weight if weight is None else weight.float().double()
    assert_same(losses, SCORES, weight, dtype=dtype)


def test_half_precision():
    """mmdet multiplies factors in bfloat16 that we do not round."""
    scores = SCORES.bfloat16()
    ours, theirs = make()
    exact = theirs(scores.double(), LABELS)
    for (name, value), rtol in zip(ours(scores, LABELS).items(), (1e-5, 1e-2)):
        torch.testing.assert_close(value.double(), exact[name], rtol=rtol, atol=0)


def test_objectness_far_apart():
    """Beyond float16, and infinitely."""
    scores = torch.zeros(4, C + 2, dtype=torch.float16)
    scores[:2, C] = torch.tensor([-60000.0, -torch.inf])
    scores[:2, C + 1], scores[2:, C + 1] = 60000, -torch.inf
    ours, theirs = make(reduction="none")
    for labels in (torch.tensor([C, C, 0, 0]), torch.tensor([0, 0, C, C])):
        x = scores.clone().requires_grad_()
        value = ours(x, labels)["loss_cls_objectness"]
        exact = theirs(scores.double(), labels)["loss_cls_objectness"]
        torch.testing.assert_close(value.double(), exact)
        assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"p": 0.0},
        {"q": 0.0},
        {"p": 2.0, "q": 0.5, "eps": 0.3},
        {"p": -1.0, "q": -1.0},
        {"eps": 0.0},
    ],
    ids=str,
)
def test_options(options):
    assert_same(make(**options), SCORES, None, dtype=torch.float64)
    assert_same(make(**options, return_dict=False), SCORES, WEIGHT.float().double())


@pytest.mark.parametrize("avg_factor", [7, 0.0, torch.tensor(3.5)], ids=str)
@pytest.mark.parametrize("override", ["mean", "none"])
def test_avg_factor_and_override(override, avg_factor):
    assert_same(make(reduction="sum"), SCORES, WEIGHT, avg_factor, override)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_nothing_but_background_and_no_rows(reduction):
    background = torch.full((N,), C)
    assert_same(make(reduction=reduction), SCORES, WEIGHT, calls=(background, LABELS))
    assert_same(make(reduction=reduction), SCORES[:0], None, calls=(LABELS[:0],))


def test_names_order_and_state():
    ours, theirs = make()
    assert [*ours(SCORES.float(), LABELS)] == [*theirs(SCORES.float(), LABELS)]
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.cum_samples, theirs.cum_samples) and ours.cum_samples.sum() == N


def test_counts_of_a_batch_are_not_lost_beside_large_ones():
    ours, theirs = make()
    for loss in (ours, theirs):
        loss.cum_samples += 2.0**24
        loss(SCORES.float(), LABELS)
    assert torch.equal(ours.cum_samples, theirs.cum_samples) and ours.cum_samples.max() > 2**24


def test_counts_in_half_precision():
    """A bfloat16 cannot count beyond 256 one by one."""
    ours, theirs = (loss.bfloat16() for loss in make())
    for loss in (ours, theirs):
        loss(torch.zeros(600, C + 2), torch.arange(600) // 400)
    assert torch.equal(ours.cum_samples, theirs.cum_samples)


def test_backward_after_another_call():
    """The counts at the time of a call are those of its gradient."""
    ours, theirs = (loss.double() for loss in make())
    slopes = []
    for loss in (ours, theirs):
        x = SCORES.clone().requires_grad_()
        first = loss(x, LABELS, WEIGHT.requires_grad_())["loss_cls_classes"]
        loss(x, OTHERS)
        slopes.append(torch.autograd.grad(first, x)[0])
    torch.testing.assert_close(*slopes)


def test_activation_and_accuracy():
    ours, theirs = make()
    torch.testing.assert_close(ours.get_activation(SCORES), theirs.get_activation(SCORES))
    for labels in (LABELS, OTHERS, SCORES[:, :C].argmax(1)):
        for (name, value), (other, wanted) in zip(
            ours.get_accuracy(SCORES, labels).items(), theirs.get_accuracy(SCORES, labels).items()
        ):
            assert name == other
            torch.testing.assert_close(value, wanted)
    empty = ours.get_accuracy(SCORES, torch.full((N,), C))["acc_classes"]  # mmdet: of shape ()
    assert empty.tolist() == [0]
    assert ours.get_cls_channels(C) == C + 2


def test_function():
    count = torch.tensor([9.0, 3, 1, 0, 40, 2])
    rest = (count, C, 0.8, 2.0, 0.01)
    for more in ((), ("none",), ("sum",), ("mean", 7)):
        assert_parity(
            lambda x, w: mmdet.seesaw_ce_loss(x, LABELS % C, w, *rest, *more),  # noqa: B023
            lambda x, w: upstream.seesaw_ce_loss(x, LABELS % C, w, *rest, *more),  # noqa: B023
            SCORES[:, :C], WEIGHT, scale=1.0,
        )  # fmt: skip


ERRORS = {
    "use_sigmoid": (lambda m: m.SeesawLoss(use_sigmoid=True), "use_sigmoid must be False"),
    "columns": (lambda m: m.SeesawLoss(num_classes=C)(SCORES[:, 1:], LABELS), "8 columns, got 7"),
    "channels": (lambda m: m.SeesawLoss(num_classes=C).get_cls_channels(5), "must be 6, got 5"),
    "override": (
        lambda m: m.SeesawLoss(num_classes=C)(SCORES, LABELS, reduction_override="max"),
        "reduction_override",
    ),
    "sum": (
        lambda m: m.SeesawLoss(num_classes=C, reduction="sum")(SCORES, LABELS, avg_factor=3),
        "avg_factor",
    ),
    "counts": (
        lambda m: m.seesaw_ce_loss(SCORES[:, :C], LABELS, None, WEIGHT, C, 0.8, 2.0, 0.01),
        "cum_samples must have 6 entries, got 17",
    ),
}


@pytest.mark.parametrize("call, text", ERRORS.values(), ids=ERRORS)
def test_errors(call, text):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(upstream)
    with pytest.raises(Exception, match=text) as ours:
        call(mmdet)
    assert ours.type is theirs.type


@pytest.mark.parametrize("bad", [-1, C + 1])
def test_label_out_of_range(bad):
    ours = make()[0]
    with pytest.raises(IndexError, match=f"got {bad} at index 3"):
        ours(SCORES.float(), torch.where(torch.arange(N) == 3, bad, LABELS))
    assert not ours.cum_samples.any()
