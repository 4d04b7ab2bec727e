"""WeightedSum of fastloss.compat.uotod against sums of uotod's matchings."""

import pytest
import torch
from references import or_skip, uotod
from torch import nn
from uotod_cases import batch

from fastloss.compat import uotod as ours

UOTOD = or_skip(uotod)
L1, SMOOTH = nn.L1Loss(reduction="none"), nn.SmoothL1Loss(reduction="none")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def parts(library, **options):
    match = library.match
    return [
        match.Hungarian(loc_match_module=SMOOTH, **options),
        match.ClosestPrediction(threshold=0.2, loc_match_module=L1, **options),
        match.UnbalancedSinkhorn(loc_match_module=L1, **options),
    ]


@DTYPES
@pytest.mark.parametrize("normalize", [True, False])
def test_like_upstream_where_it_runs(normalize, dtype):
    """It does without weights."""
    input, target = batch(dtype)
    options = {"normalize": normalize, "loc_match_module": L1, "background_cost": 1.0}
    found, expected = (
        x.match.WeightedSum(matching_modules=parts(x), **options)(input, target)
        for x in (ours, UOTOD)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == dtype


@DTYPES
@pytest.mark.parametrize("same_cost", [True, False])
def test_weights_and_costs(same_cost, dtype):
    """**Bug**: weights raise upstream, and same_cost=False hands over no cost."""
    input, target = batch(dtype)
    weights = [0.5, 2.0, 1.0]
    options = {"loc_match_module": L1, "background_cost": 1.0, "same_cost": same_cost}
    total = ours.WeightedSum(matching_modules=parts(ours), weights=weights, **options)
    cost = ours.Hungarian(loc_match_module=L1, background_cost=1.0).compute_cost_matrix(
        input, target
    )
    expected = 0
    for module, weight in zip(parts(UOTOD), weights):
        own = cost if same_cost else module.compute_cost_matrix(input, target)
        expected = expected + weight * module.compute_matching(own.clone(), target["mask"])
    found = total(input, target)
    torch.testing.assert_close(found, expected / 3.5, rtol=1e-5, atol=1e-6)
    with pytest.raises((AttributeError, AssertionError, UnboundLocalError)):
        UOTOD.match.WeightedSum(matching_modules=parts(UOTOD), weights=weights, **options)


def test_a_closest_target_does_not_poison_the_cost():
    """**Bug**: upstream it writes infinity into what the next matcher gets."""
    input, target = batch()

    def modules(match):
        return [match.ClosestTarget(loc_match_module=L1), match.SoftMin(loc_match_module=L1)]

    total = ours.WeightedSum(matching_modules=modules(ours), loc_match_module=L1)
    expected = sum(module(input, target) for module in modules(ours)) / 2
    torch.testing.assert_close(total(input, target), expected)
    assert total._last_cost.isfinite().all()


def test_a_given_cost_and_lists():
    input, target = batch()
    total = ours.WeightedSum(matching_modules=parts(ours), loc_match_module=L1)
    expected = total(input, target)
    cost, kept = total._last_cost, total._last_matchings
    assert len(kept) == 3 and torch.equal(total(input, target, cost_matrix=cost), expected)
    torch.testing.assert_close(sum(kept) / 3, expected)
    targets = [
        {name: target[name][i][target["mask"][i]] for name in ("labels", "boxes")} for i in range(3)
    ]
    assert torch.equal(total(input, targets), expected)
    total(input, target, save=False)
    assert total._last_match is None and total._last_matchings is None


@pytest.mark.parametrize("same_cost", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
def test_without_a_background(theirs, same_cost):
    """That of the matchers is left out."""
    input, target = batch(counts=(5, 2, 1))
    options = {"background": theirs, "background_cost": 0.4, "loc_match_module": L1}
    modules = [ours.Hungarian(**options), ours.SoftMin(source="prediction", **options)]
    total = ours.WeightedSum(
        matching_modules=modules, weights=(1, 3), background=False, loc_match_module=L1,
        same_cost=same_cost,
    )  # fmt: skip
    expected = (modules[0](input, target) + 3 * modules[1](input, target))[..., :5] / 4
    torch.testing.assert_close(total(input, target), expected)


def test_setters():
    total = ours.WeightedSum(matching_modules=iter(parts(ours)), loc_match_module=L1)
    assert len(total.matching_modules) == 3 and total.weights == [1, 1, 1]
    total.weights = (x for x in (1, 2, 3))
    assert total.weights == [1, 2, 3]
    total.weights = None
    total.same_cost, total.normalize = False, False
    assert total.weights == [1, 1, 1] and not total.same_cost and not total.normalize


def test_the_matchers_move_along():
    weighted = nn.CrossEntropyLoss(torch.ones(4), reduction="none")
    modules = [ours.Hungarian(cls_match_module=weighted, loc_match_module=L1)]
    total = ours.WeightedSum(matching_modules=modules, same_cost=False).double()
    assert weighted.weight.dtype == torch.float64 and not total.state_dict()
    assert total(*batch(torch.float64)).dtype == torch.float64


GOOD = [ours.Hungarian(loc_match_module=L1)]
BARE = [ours.Hungarian(background=False)]
ERRORS = {
    "none": ({}, AssertionError, "matching_modules must be a list, got None"),
    "empty": ({"matching_modules": []}, AssertionError, "must not be empty"),
    "a loss": ({"matching_modules": [L1]}, AssertionError, "must be matchers, got L1Loss"),
    "background": ({"matching_modules": BARE}, AssertionError, "needs matchers with one"),
    "number of weights": ({"matching_modules": GOOD, "weights": [1, 2]}, AssertionError, "be 1"),
    "a weight": ({"matching_modules": GOOD, "weights": 1}, AssertionError, "weights must be a"),
    "normalize": ({"matching_modules": GOOD, "normalize": 1}, AssertionError, "normalize must be"),
    "same_cost": ({"matching_modules": GOOD, "same_cost": 0}, AssertionError, "same_cost must be"),
}  # fmt: skip


@pytest.mark.parametrize("options,error,message", ERRORS.values(), ids=ERRORS)
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        ours.WeightedSum(**options)


def test_errors_of_a_call():
    total = ours.WeightedSum(matching_modules=GOOD, loc_match_module=L1)
    with pytest.raises(NotImplementedError, match="call a WeightedSum instead"):
        total.compute_matching(torch.ones(1, 2, 3), None)
    with pytest.raises(ValueError, match="both are None"):
        ours.WeightedSum(matching_modules=GOOD)(*batch())
    with pytest.raises(AssertionError, match="torch.bool"):
        total(batch()[0], {**batch()[1], "mask": torch.ones(3, 5)})
    soft = ours.WeightedSum(matching_modules=[ours.SoftMin()])
    with pytest.raises(RuntimeError, match="the matching is NaN"):
        soft(*batch(), cost_matrix=torch.full((3, 9, 6), torch.nan))
