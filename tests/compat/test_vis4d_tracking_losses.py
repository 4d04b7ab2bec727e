"""EmbeddingDistanceLoss, MultiPosCrossEntropyLoss and multi_pos_cross_entropy against vis4d's."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from parity import assert_as_exact, assert_parity
from test_mmdet_calls import step
from vis4d_cases import DTYPES, LIBRARIES, REDUCERS, ours, reducer, same_error, upstream

from fastloss.testing import forbid_host_reads

N, M = 4, 12
G = torch.Generator().manual_seed(0)
# Apart in bfloat16 also, so that the hardest negatives are the same.
PRED = torch.linspace(0.35, 0.95, N * M)[torch.randperm(N * M, generator=G)].view(N, M)
TARGET = (torch.rand(N, M, generator=G) < 0.15).long()
WEIGHT = torch.rand(N, M, generator=G) * 1.5 - 0.3  # some are not above 0
OPTIONS = [
    dict(zip(("neg_pos_ub", "pos_margin", "neg_margin"), values, strict=True))
    for values in itertools.product((-1.0, 0.3, 1.5, 3.0), (0.0, 0.2), (-0.1, 0.3))
] + [{"neg_pos_ub": limit} for limit in (math.inf, -math.inf, math.nan)]


def on_copies(loss):
    """Upstream writes to its arguments, which a leaf with a gradient refuses."""
    return lambda *args: loss(*(x.clone() for x in args))


def distances(**options):
    mine, theirs = (library.EmbeddingDistanceLoss(**options) for library in LIBRARIES)
    return mine, on_copies(theirs)


@DTYPES
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_embedding_distance(options, dtype):
    assert_parity(*distances(**options), PRED, TARGET, WEIGHT, dtype=dtype, scale=0.1)
    assert_parity(*distances(**options), PRED, TARGET, dtype=dtype, scale=0.1)


TARGETS = {
    "no positives": torch.zeros_like(TARGET),
    "no negatives": torch.ones_like(TARGET),
    "neither": torch.full_like(TARGET, 2),
    "some neither": torch.where(WEIGHT < 0.4, -1, TARGET),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_embedding_distance_of_other_targets(target):
    assert_parity(*distances(), PRED, target, WEIGHT, scale=0.1)
    assert_parity(*distances(), PRED, target, scale=0.1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_update_weight(options):
    mine, theirs = (library.EmbeddingDistanceLoss(**options) for library in LIBRARIES)
    found = mine.update_weight(PRED, TARGET, WEIGHT)
    expected = on_copies(theirs.update_weight)(PRED, TARGET, WEIGHT)
    assert found[2].dtype == expected[2].dtype and found[2].shape == ()
    for one, other in zip(found, expected, strict=True):
        assert_as_exact(one, other, other, torch.float32)


def test_arguments_are_not_written_to():
    """Bug: upstream writes to all three, and raises for a leaf that requires a gradient."""
    args = PRED.clone().requires_grad_(), TARGET.float(), WEIGHT.clone()
    before = [x.detach().clone() for x in args]
    loss = ours.EmbeddingDistanceLoss(pos_margin=0.1)
    loss(*args).backward()
    loss.update_weight(*args)
    assert all(torch.equal(x, y) for x, y in zip(args, before, strict=True))
    with pytest.raises(RuntimeError, match="leaf"):
        upstream.EmbeddingDistanceLoss(pos_margin=0.1)(*args)


@DTYPES
@pytest.mark.parametrize("case", ["zero", "negative", "no negative kept"])
def test_no_pair_counts(case, dtype):
    """0 / 0, and -inf where weights below 0 are summed, as upstream."""
    target, weight, options = {
        "zero": (TARGET, 0 * WEIGHT, {}),
        "negative": (TARGET, -WEIGHT.abs() - 0.1, {}),
        "no negative kept": (0 * TARGET, WEIGHT.abs(), {"neg_pos_ub": 0.3}),
    }[case]
    if case != "no negative kept":  # whose gradient upstream is NaN, and here 0
        assert_parity(*distances(**options), PRED, target, weight, dtype=dtype)
    pred = PRED.to(dtype)
    value = ours.EmbeddingDistanceLoss(**options)(pred, target, weight)
    assert value == -torch.inf if case == "negative" else value.isnan()
    assert ours.EmbeddingDistanceLoss(**options).update_weight(pred, target, weight)[2] == 0


def test_one_pair_counts():
    weight = torch.zeros(N, M)
    weight[1, 2] = 0.5
    assert_parity(*distances(), PRED, TARGET, weight, scale=0.1)


def test_random_negatives():
    results = []
    for library in LIBRARIES:
        loss = library.EmbeddingDistanceLoss(hard_mining=False)
        _, weight, count = on_copies(loss.update_weight)(PRED, TARGET, torch.ones(N, M))
        results.append((count.item(), weight[TARGET == 0].sum().item()))
    assert results[0] == results[1]
    loss = ours.EmbeddingDistanceLoss(hard_mining=False)
    torch.manual_seed(0)
    assert len({loss(PRED, TARGET).item() for _ in range(5)}) > 1


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((0, 3), (0, 3))], ids=str)
def test_embedding_distance_of_wrong_shapes(shapes):
    pred, target = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(AssertionError, match="one shape"):
        ours.EmbeddingDistanceLoss()(pred, target)
    if shapes[0] == shapes[1]:
        same_error(lambda library: library.EmbeddingDistanceLoss()(pred, target))


def test_target_has_no_gradient():
    target = TARGET.float().requires_grad_()
    same_error(lambda library: library.EmbeddingDistanceLoss()(PRED, target, WEIGHT - 1))


SIMILARITIES = 3 * torch.randn(N, M, generator=G)
MIXED = TARGET.clone()
MIXED[0], MIXED[1] = 0, 1
ROWS = torch.rand(N, generator=G)
KINDS = {
    "pairs": (SIMILARITIES, TARGET),
    "rows of one kind": (SIMILARITIES, MIXED),
    "pairs of both kinds": (SIMILARITIES, MIXED + torch.eye(N, M).long()),
    "large": (60 * SIMILARITIES, TARGET),
    "one pair": (SIMILARITIES[:, :1], TARGET[:, :1]),
    "no pairs": (SIMILARITIES[:, :0], TARGET[:, :0]),
    "no rows": (SIMILARITIES[:0], TARGET[:0]),
}
kinds = pytest.mark.parametrize("pred, target", KINDS.values(), ids=KINDS)


@DTYPES
@kinds
def test_multi_pos_cross_entropy(pred, target, dtype):
    for how in REDUCERS:
        pair = [
            lambda *args, library=library, how=how: library.multi_pos_cross_entropy(
                *args, reducer(library, how)
            )
            for library in LIBRARIES
        ]
        assert_parity(*pair, pred, target, dtype=dtype, scale=1.0)


@DTYPES
@pytest.mark.parametrize("avg_factor", [2.5, torch.tensor(3), torch.tensor([2])], ids=str)
@kinds
def test_multi_pos_loss(pred, target, avg_factor, dtype):
    losses = [library.MultiPosCrossEntropyLoss() for library in LIBRARIES]
    weight = ROWS[: len(pred)]
    assert_parity(*losses, pred, target, weight, avg_factor, dtype=dtype, scale=1.0)


@pytest.mark.parametrize("avg_factor", [0.0, torch.tensor(0.0)], ids=str)
def test_nothing_is_added_to_avg_factor(avg_factor):
    for library in LIBRARIES:
        loss = library.MultiPosCrossEntropyLoss()
        assert loss(SIMILARITIES, TARGET, ROWS, avg_factor).isinf()
        assert loss(SIMILARITIES, TARGET, 0 * ROWS, avg_factor).isnan()


@pytest.mark.parametrize("target", [TARGET[1:], TARGET[:, 1:], TARGET[0]], ids=["N", "M", "row"])
def test_multi_pos_of_wrong_shapes(target):
    with pytest.raises(RuntimeError, match="shape"):
        ours.multi_pos_cross_entropy(SIMILARITIES, target, ours.mean_loss)


CALLS = {
    "hard": (ours.EmbeddingDistanceLoss(), PRED, TARGET, WEIGHT),
    "no weight": (ours.EmbeddingDistanceLoss(), PRED, TARGET),
    "random": (ours.EmbeddingDistanceLoss(hard_mining=False), PRED, TARGET, WEIGHT),
    "multi pos": (ours.MultiPosCrossEntropyLoss(), SIMILARITIES, TARGET, ROWS, 2.5),
    "by tensor": (ours.MultiPosCrossEntropyLoss(), SIMILARITIES, TARGET, ROWS, torch.tensor(3.0)),
}


@pytest.mark.parametrize("loss, args", [(c[0], c[1:]) for c in CALLS.values()], ids=CALLS)
def test_no_host_read_and_copies(loss, args):
    with forbid_host_reads():
        step(loss, *args)
        if isinstance(loss, ours.EmbeddingDistanceLoss):
            loss.update_weight(PRED, TARGET, WEIGHT)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.manual_seed(0)
        value = other(*args)
        torch.manual_seed(0)
        assert torch.equal(value, loss(*args))


@pytest.mark.parametrize("name", ["hard", "multi pos"])
def test_compiles_to_one_graph(name):
    torch.compiler.reset()
    loss, *args = CALLS[name]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled, *args), step(loss, *args))
