"""Calls of fastloss.compat.uotod's matchers: lists, errors, NaN, subclasses, what is kept."""

import copy
import warnings
import weakref

import pytest
import torch
from references import or_skip, uotod
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from uotod_cases import MATCHERS, OURS, batch, costs

import fastloss
from fastloss._library import values_may_be_read
from fastloss.compat import uotod as ours

UOTOD = or_skip(uotod)
L1 = nn.L1Loss(reduction="none")


def made(name, **options):
    kind, own = MATCHERS[name]
    parts = {"cls_match_module": OURS["cls"]["probability"], "loc_match_module": L1}
    return getattr(ours, kind)(**parts, **own, **options)


def images(input, target):
    """The same image by image, without padding."""
    inputs = [{name: x[i] for name, x in input.items()} for i in range(len(target["mask"]))]
    targets = [
        {name: target[name][i][target["mask"][i]] for name in ("labels", "boxes")}
        for i in range(len(target["mask"]))
    ]
    return inputs, targets


@pytest.mark.parametrize("name", MATCHERS)
def test_lists(name):
    """**Bug**: upstream fails for a list of targets, which it converts too late, and of inputs."""
    input, target = batch()
    inputs, targets = images(input, target)
    matcher = made(name)
    expected = matcher(input, target)
    cost = matcher._last_cost
    for first, second in ((input, targets), (inputs, targets), (inputs, target)):
        assert torch.equal(matcher(first, second), expected)
        assert torch.equal(matcher.compute_cost_matrix(first, second), cost)
    assert torch.equal(matcher._last_target["mask"], target["mask"])


@pytest.mark.parametrize("name", MATCHERS)
def test_nothing_of_the_caller_is_written(name):
    input, target = batch()
    given = copy.deepcopy((input, target))
    matcher = made(name)
    first = matcher(input, target)
    cost = matcher.compute_cost_matrix(input, target)
    before = cost.clone()
    again = matcher(input, target, cost_matrix=cost)
    assert torch.equal(cost, before) and torch.equal(first, again)
    for x, y in zip(given, (input, target)):
        assert all(torch.equal(x[name], y[name]) for name in x)


def test_the_mask_may_be_none():
    input, target = batch(counts=(5, 5))
    for name in MATCHERS:
        expected = made(name)(input, target)
        assert torch.equal(made(name)(input, {**target, "mask": None}), expected)


@pytest.mark.parametrize("name", MATCHERS)
def test_a_given_cost_needs_no_input(name):
    """Of input and target the mask alone is used then; what can be drawn is."""
    input, target = batch()
    matcher = made(name)
    cost = matcher.compute_cost_matrix(input, target)
    expected = matcher(input, target)
    assert torch.equal(matcher(None, {"mask": target["mask"]}, cost_matrix=cost), expected)
    assert matcher._last_input is None and list(matcher._last_target) == ["mask"]
    full = torch.ones_like(target["mask"])
    assert torch.equal(
        matcher(None, {"mask": None}, cost_matrix=cost),
        matcher(None, {"mask": full}, cost_matrix=cost),
    )


def test_layouts():
    input, target = batch()
    strided = {name: x.mT.contiguous().mT for name, x in input.items()}
    other = {**target, "boxes": target["boxes"].mT.contiguous().mT}
    for name in MATCHERS:
        matcher = made(name)
        expected = matcher(input, target)
        assert torch.equal(matcher(strided, other), expected)
        cost = matcher._last_cost.mT.contiguous().mT
        assert torch.equal(matcher(input, target, cost_matrix=cost), expected)


def test_what_is_kept():
    input, target = batch()
    matcher = made("hungarian")
    kept = ("_last_cost", "_last_match", "_last_input", "_last_target")
    assert all(getattr(matcher, name) is None for name in kept)
    matching = matcher(input, target)
    assert matcher._last_match is matching and matcher._last_cost.shape == matching.shape
    for last, given in ((matcher._last_input, input), (matcher._last_target, target)):
        assert last.keys() == given.keys()
        assert all(last[name].data_ptr() == given[name].data_ptr() for name in given)
    matcher(input, target, save=False)
    assert all(getattr(matcher, name) is None for name in kept)
    for name in ("background", "background_cost", "is_anchor_based", "matching_loc_module"):
        assert hasattr(matcher, name)
    assert not list(matcher.parameters()) and not matcher.state_dict()


@pytest.mark.parametrize("name", ["hungarian", "sum"])
def test_a_matcher_can_be_copied_after_a_call(name):
    """What is kept has no graph, whatever the caller's tensors have."""
    input, target = batch()
    input["pred_boxes"] = input["pred_boxes"].requires_grad_() * 1
    matcher = made("hungarian")
    if name == "sum":
        matcher = ours.WeightedSum(matching_modules=[matcher], loc_match_module=L1)
    cost = matcher.compute_cost_matrix(input, target)
    assert cost.requires_grad
    matching = matcher(input, target, cost_matrix=cost)
    assert torch.equal(copy.deepcopy(matcher)(input, target, cost_matrix=cost), matching)


class Live(TorchDispatchMode):
    """Counts storages of at least so many bytes that are alive at once."""

    def __init__(self, least):
        super().__init__()
        self.least, self.seen, self.most = least, [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.seen += [weakref.ref(x) for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        storages = [x().untyped_storage() for x in self.seen if x() is not None]
        large = {x.data_ptr() for x in storages if x.nbytes() >= self.least}
        self.most = max(self.most, len(large))
        return result


@pytest.mark.parametrize("name", MATCHERS)
def test_memory(name):
    """The cost, the matching and one more of that size, all in all."""
    given = batch(counts=(30, 20, 9), rows=50, columns=30)
    with Live(least=3 * 50 * 30 * 4) as live:
        made(name)(*given)
    assert 2 <= live.most <= 3


NAN = torch.nan


def test_nan_is_refused_where_reading_is_free(monkeypatch):
    input, target = batch()
    cost = torch.zeros(3, 9, 6)
    cost[1, 2, 1] = NAN
    for name in ("softmin target", "balanced", "unbalanced"):
        with pytest.raises(RuntimeError, match="the matching is NaN"):
            made(name)(input, target, cost_matrix=cost)
    with pytest.raises(ValueError, match="NaN"):
        made("hungarian")(input, target, cost_matrix=cost)
    # As on a GPU: it stays there, and the host does not look.
    monkeypatch.setattr(ours.match._Match, "values_may_be_read", lambda _: False)
    assert made("softmin target")(input, target, cost_matrix=cost)[1].isnan().any()


def test_infinity_is_refused_too():
    """Where all costs are negative, normalizing them blows them up (NaN upstream)."""
    cost = -torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(2)) - 0.1
    mask = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        made("unbalanced")(None, {"mask": mask}, cost_matrix=cost)
    # A sum that overflows is no infinite matching.
    cost, mask = torch.zeros(1, 70_000, 2, dtype=torch.float16), mask[:1, :1]
    made("closest target")(None, {"mask": mask}, cost_matrix=cost)


def test_a_regularization_may_be_a_tensor():
    input, target = batch()
    for name in ("BalancedSinkhorn", "UnbalancedSinkhorn"):
        found, expected = (
            getattr(ours, name)(loc_match_module=L1, reg=reg)(input, target)
            for reg in (torch.tensor(0.25), 0.25)
        )
        assert torch.equal(found, expected)


def test_values_may_be_read_on_the_cpu():
    x, meta = torch.ones(2), torch.ones(2, device="meta")
    assert values_may_be_read(x) and not values_may_be_read(meta)
    with fastloss.debug():
        assert values_may_be_read(x) and not values_may_be_read(meta)


def test_predictions_that_are_not_finite_are_dear():
    """The fused cost is 1e9; Hungarian takes another prediction."""
    input, target = batch()
    input["pred_boxes"][0, 3] = NAN
    matcher = made("hungarian")
    assert matcher(input, target)[0, 3].tolist() == [0, 0, 0, 0, 0, 1]
    assert (matcher._last_cost[0, 3, :5] == 1e9).all()


NO_MASK = {**batch()[1], "mask": torch.ones(3, 5)}
ERRORS = {
    "background": (lambda: made("hungarian", background=1), AssertionError, "background must be"),
    "background_cost": (
        lambda: made("hungarian", background_cost=-1.0), AssertionError, "must be >= 0, got -1.0",
    ),
    "reduction of classes": (
        lambda: ours.Hungarian(cls_match_module=ours.NegativeProbLoss()), ValueError,
        'cls_match_module must have reduction "none", got \'mean\'',
    ),
    "reduction of boxes": (
        lambda: ours.SoftMin(loc_match_module=nn.L1Loss(reduction="sum")), ValueError,
        'loc_match_module must have reduction "none", got \'sum\'',
    ),
    "no module": (lambda: ours.Hungarian()(*batch()), ValueError, "must be given, both are None"),
    "mask": (
        lambda: made("hungarian")(batch()[0], NO_MASK), AssertionError, "torch.bool, got torch.flo",
    ),
    "no anchors": (
        lambda: made("hungarian", is_anchor_based=True)(*batch()), AssertionError, "anchors must",
    ),
    "scipy": (lambda: ours.Hungarian(scipy=None), AssertionError, "scipy must be a bool"),
    "compiled": (lambda: ours.BalancedSinkhorn(compiled=1), AssertionError, "compiled must be a"),
    "num_iter": (lambda: ours.BalancedSinkhorn(num_iter=0), AssertionError, "num_iter must be > 0"),
    "reg": (lambda: ours.UnbalancedSinkhorn(reg=0.0), AssertionError, "reg must be > 0, got 0.0"),
    "reg_dimless": (
        lambda: ours.BalancedSinkhorn(reg_dimless=-1), AssertionError, "reg_dimless must be > 0",
    ),
    "normalize": (
        lambda: ours.BalancedSinkhorn(normalize_cost_matrix=0), AssertionError, "must be a bool",
    ),
    "softmin reg": (lambda: ours.SoftMin(reg=0), AssertionError, "reg must be > 0, got 0"),
    "softmin source": (lambda: ours.SoftMin(source="row"), NameError, "got 'row'"),
    "softmin type": (lambda: ours.SoftMin(source=1), AssertionError, "must be a string, got 1"),
    "min source": (lambda: ours.Min(source="background"), NameError, "got 'background'"),
    "min type": (lambda: ours.Min(source=None), AssertionError, "must be a string, got None"),
    "threshold": (lambda: ours.ClosestPrediction(threshold="x"), ValueError, "could not convert"),
    "positional": (lambda: ours.Hungarian(L1), TypeError, "positional"),
}  # fmt: skip


@pytest.mark.parametrize("call,error,message", ERRORS.values(), ids=ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_warnings():
    input, target = batch()
    with pytest.warns(UserWarning, match="anchors are not used"):
        made("hungarian")(input, target, input["pred_boxes"])
    with pytest.warns(UserWarning, match="Hungarian ignores treshold"):
        ours.Hungarian(treshold=3)
    closest = ours.ClosestPrediction(background=False)
    with pytest.warns(UserWarning, match="no effect without a background"):
        assert closest.uniform_background is False


def test_properties():
    closest, soft = ours.Min(source="the targets"[4:]), ours.SoftMin(source="TARGET")
    assert isinstance(closest, ours.ClosestPrediction)
    assert isinstance(ours.Min(source="Prediction(s)"), ours.ClosestTarget)
    assert ours.Min(threshold=2).threshold == 2
    closest.threshold, closest.uniform_background = "1.5", True
    assert closest.threshold == 1.5 and closest.uniform_background
    assert soft.closest == "target"
    soft.closest = "predictions"
    assert soft.closest == "prediction"
    with pytest.raises(NameError):
        soft.closest = "rows"
    transport = ours.BalancedSinkhorn(num_iter=7.9)
    assert (transport.num_iter, transport.reg, transport.reg_dimless) == (7, None, 0.12)
    assert ours.UnbalancedSinkhorn(reg=2).reg_dimless is None
    with pytest.raises(AssertionError):
        transport.num_iter = -1
    with pytest.raises(AssertionError):
        transport.compiled = "yes"
    cost, mask = costs()
    transport.num_iter = 1
    once = transport.compute_matching(cost, mask)
    transport.num_iter = 40
    assert not torch.equal(transport.compute_matching(cost, mask), once)


def greedy(base, **defaults):
    """A matcher of one's own as uotod's users write them: each prediction by itself."""

    class Greedy(base):
        def __init__(self, **kwargs):
            super().__init__(**{**defaults, **kwargs})
            self.scale = kwargs["scale"]

        def _compute_matching_apart(self, cost_matrix, out_view, **kwargs):
            assert cost_matrix.shape == out_view.shape and not out_view.any()
            out_view = out_view.clone()
            out_view[torch.arange(len(cost_matrix)), cost_matrix.argmin(1)] = self.scale
            return out_view

        def _compute_matching_together(self, cost_matrix, out_view, target_mask=None, **kwargs):
            if target_mask is not None:
                cost_matrix = cost_matrix.clone()
                cost_matrix[:, :, : target_mask.shape[1]].mT[~target_mask] = torch.inf
            return out_view.scatter_(2, cost_matrix.argmin(2, keepdim=True), self.scale)

    return Greedy


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("individual", [True, False])
def test_subclasses(individual, background):
    options = {"scale": 2.0, "individual": individual, "background": background}
    options |= {"loc_match_module": L1, "background_cost": 1.0}  # the cheapest of some
    input, target = batch(counts=(5, 2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matcher = greedy(ours.match._Match._Match)(**options)
    theirs = greedy(UOTOD.match._Match._Match)(**options)
    matching = matcher(input, target)
    assert torch.equal(matching, theirs(input, target)) and matching.max() == 2
    assert not background or matching[..., -1].any()
    assert torch.equal(
        matcher.compute_matching(matcher._last_cost, None),
        theirs.compute_matching(theirs._last_cost, None),
    )
    inputs, targets = images(input, target)
    assert torch.equal(matcher(inputs, targets), matching)
    holes = {name: x[:, [3, 0, 4, 1, 2]] for name, x in target.items()}
    order = [3, 0, 4, 1, 2] + [5] * background
    assert torch.equal(matcher(input, holes), matching[..., order])


def test_a_subclass_without_a_matching():
    class Nothing(ours.match._Match._Match):
        pass

    for individual in (True, False):
        with pytest.raises(NotImplementedError, match="Nothing does not define _compute_matching_"):
            Nothing(loc_match_module=L1, individual=individual)(*batch())
