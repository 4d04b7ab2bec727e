"""GHMC and GHMR against mmdet's: several calls in a row, so that the running counts move."""

import sys
import types

import pytest
import references
import torch
import torch.nn.functional as F
from parity import assert_as_exact, assert_parity

from fastloss.compat import mmdet

upstream = references.or_skip(references.mmdet)

N, C = 37, 5
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS, SOFT, WEIGHT = 2 * normal(0, N, C), normal(1, N, C).sigmoid(), normal(2, N, C) + 0.5
IDS = torch.arange(N) % (C + 3) - 2  # among them -2, -1 and C


def make(name, **options):
    return getattr(mmdet, name)(**options), getattr(upstream, name)(**options)


def several_calls(ours, theirs, calls, dtype):
    """Parity at every call; `assert_parity` calls the library's loss in float64 too, which must not
    move its buffers twice."""
    state = theirs.state_dict()

    def library(*args, **kwargs):
        theirs.load_state_dict(state)
        return theirs(*args, **kwargs)

    for args in calls:
        state = {name: x.clone() for name, x in ours.state_dict().items()}
        assert_parity(ours, library, *args, dtype=dtype, rounds=True)
        for name, x in theirs.state_dict().items():
            torch.testing.assert_close(getattr(ours, name), x, rtol=1e-6, atol=0)


@pytest.fixture(autouse=True)
def mmdet_in_its_own_precision(monkeypatch):
    """mmdet's targets are float32, and torch computes the cross entropy of float64 logits in the
    dtype of the target."""

    def cross_entropy(pred, target, reduction):
        return F.binary_cross_entropy_with_logits(pred, target.to(pred.dtype), reduction=reduction)

    namespace = types.SimpleNamespace(binary_cross_entropy_with_logits=cross_entropy)
    monkeypatch.setattr(sys.modules[upstream.GHMC.__module__], "F", namespace)


OPTIONS = {
    "plain": {"bins": 30},
    "momentum": {"momentum": 0.75, "loss_weight": 2.5},
    "one bin": {"bins": 1, "momentum": 0.5},
    "none": {"momentum": 0.3, "reduction": "none"},
}
CLASSIFICATION = (
    (LOGITS, SOFT, WEIGHT),
    (0.3 * LOGITS, (SOFT > 0.7).long(), WEIGHT > 0),
    (LOGITS + 3, IDS, WEIGHT[:, 0]),
    (LOGITS, SOFT, WEIGHT[:, :1]),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS)
def test_classification(options, dtype):
    several_calls(*make("GHMC", **OPTIONS[options]), CLASSIFICATION, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS)
def test_regression(options, dtype):
    # The last weights add up to less than 1.
    calls = ((LOGITS, SOFT, WEIGHT), (LOGITS / 9, SOFT / 9, WEIGHT), (LOGITS, SOFT[:1], WEIGHT))
    calls = (*calls, (LOGITS, SOFT, 1e-3 * WEIGHT))
    several_calls(*make("GHMR", mu=0.25, **OPTIONS[options]), calls, dtype)


def assert_counts(ours, theirs, *call):
    torch.testing.assert_close(ours(*call), theirs(*call))
    assert torch.equal(ours.acc_sum, theirs.acc_sum)


def test_lengths_on_the_edges():
    # sigmoid(0) is 1/2 in every precision, and 1/2 - t exact: lengths of b / 16, and the ends.
    x = torch.tensor([0.0] * 9 + [100.0, -100.0])[:, None]
    t = torch.cat((torch.arange(9) / 16, torch.tensor([0.0, 0.0])))[:, None]
    ours, theirs = make("GHMC", bins=16, momentum=0.5)
    assert_counts(ours, theirs, x, t, torch.ones(11, 1))
    # d / sqrt(d^2 + mu^2) is 3/5 and 4/5, as float32 rounds them and the edges; in float64 the
    # edges of float32 are above both.
    d, zero = torch.tensor([[3.0, 4.0, 0.0, 1e6, -3.0]]), torch.zeros(1, 5)
    for mu in (4.0, 3.0):
        ours, theirs = make("GHMR", bins=5, mu=mu, momentum=0.5)
        assert_counts(ours, theirs, d, zero, zero + 1)


@pytest.mark.parametrize("name", ["GHMC", "GHMR"])
def test_bins_of_many_lengths(name):
    """The counts of float32 lengths are mmdet's."""
    pred, target = 3 * normal(3, 20_000, 1).float(), normal(4, 20_000, 1).sigmoid().float()
    ours, theirs = make(name, bins=7, momentum=0.5)
    for loss in (ours, theirs):
        loss(pred, target, torch.ones_like(pred))
    # A sigmoid may round another way: one length in some millions is at an edge.
    assert (ours.acc_sum - theirs.acc_sum).abs().sum() <= (1 if name == "GHMC" else 0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", ["GHMC", "GHMR"])
def test_nothing_valid_and_no_rows(name, reduction):
    calls = ((LOGITS, SOFT, -WEIGHT.abs()), (LOGITS[:0], SOFT[:0], WEIGHT[:0]))
    several_calls(*make(name, momentum=0.5, reduction=reduction), calls, torch.float32)


def test_beyond_the_bins():
    """A length above 1 has the weight 0, and what is not a number is not hidden."""
    pred = torch.tensor([[0.0, 1.0, torch.nan, 2.0]], dtype=torch.float64)
    target, weight = torch.tensor([[1.0, 3.0, 0.0, 1.0]]).double(), torch.ones(1, 4).double()
    call = [x[:, :2] for x in (pred, target, weight)]
    several_calls(*make("GHMC", momentum=0.5), [call], torch.float64)
    ours, theirs = (loss(pred, target, weight) for loss in make("GHMC", momentum=0.5))
    assert ours.isnan() and theirs.isnan()
    # mmdet: NaN, though the element is not valid
    loss = mmdet.GHMC()(pred.requires_grad_(), target, torch.tensor([[1.0, 1.0, 0.0, 1.0]]))
    assert loss.isfinite() and torch.autograd.grad(loss, pred)[0][0, 2] == 0


def test_modules_of_other_dtypes():
    for cast in ("double", "bfloat16"):
        ours, theirs = (getattr(m, cast)() for m in make("GHMC", bins=8, momentum=0.5))
        for _ in range(2):
            call = LOGITS.float(), SOFT.float(), WEIGHT.float()
            a, b = ours(*call), theirs(*call)
            assert_as_exact(a, b, b, torch.float32 if cast == "double" else torch.bfloat16)
            torch.testing.assert_close(ours.acc_sum, theirs.acc_sum)


ERRORS = {
    "sum": lambda m, name: getattr(m, name)(reduction="sum")(LOGITS, SOFT, WEIGHT),
    "override": lambda m, name: getattr(m, name)()(LOGITS, SOFT, WEIGHT, reduction_override="max"),
    "sigmoid": lambda m, _: m.GHMC(use_sigmoid=False),
}


@pytest.mark.parametrize("name", ["GHMC", "GHMR"])
@pytest.mark.parametrize("error", ERRORS)
def test_errors(error, name):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        ERRORS[error](upstream, name)
    with pytest.raises(Exception, match="must be|can not") as ours:
        ERRORS[error](mmdet, name)
    assert ours.type is theirs.type


def test_what_is_ignored():
    plain = mmdet.GHMC()(LOGITS, SOFT, WEIGHT)
    assert plain == mmdet.GHMC()(LOGITS, SOFT, WEIGHT, avg_factor=7, anything=None)
    plain = mmdet.GHMR()(LOGITS, SOFT, WEIGHT)
    assert plain == mmdet.GHMR()(LOGITS, SOFT, WEIGHT, 7)
    with pytest.raises(ValueError, match="mu must be > 0, got 0"):
        mmdet.GHMR(mu=0)(LOGITS, SOFT, WEIGHT)
