"""Matchings of fastloss.compat.uotod against uotod's, from the same costs and from whole calls."""

import pytest
import torch
from parity import assert_as_exact
from references import or_skip, uotod
from uotod_cases import MATCHERS, OURS, batch, column_order, costs, modules

from fastloss.compat import uotod as ours

UOTOD = or_skip(uotod)
THEIRS = modules(UOTOD, UOTOD.loss.MultipleObjectiveLoss)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def made(library, name, cls="none", loc="l1", **options):
    """A matcher of the table, with modules."""
    chosen = OURS if library is ours else THEIRS
    kind, own = MATCHERS[name]
    parts = {"cls_match_module": chosen["cls"][cls], "loc_match_module": chosen["loc"][loc]}
    return getattr(library.match, kind)(**parts, **own, **options)


def assert_matching(name, actual, theirs, cost, mask):
    """Equal to what `theirs` makes of the cost, as exact as their float32 is."""
    expected = theirs.compute_matching(cost.clone(), mask)
    if "balanced" in name:  # their masses are float32 in any case
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    else:
        truth = theirs.compute_matching(cost.double().clone(), mask)
        assert_as_exact(actual, expected, truth, cost.dtype)
    assert actual.dtype == cost.dtype


@DTYPES
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("name", MATCHERS)
def test_matching_of_a_cost_matrix(name, background, dtype):
    cost, mask = costs(dtype, background)
    before = cost.clone()
    matcher, theirs = (made(x, name, background=background) for x in (ours, UOTOD))
    if name == "softmin prediction" and not background:
        # There upstream matches padding too.
        real = torch.where(mask[:, None], cost, torch.inf)
        torch.testing.assert_close(matcher.compute_matching(cost, mask), (-real).softmax(2))
    else:
        assert_matching(name, matcher.compute_matching(cost, mask), theirs, cost, mask)
    assert torch.equal(cost, before)


@DTYPES
@pytest.mark.parametrize("name", [name for name in MATCHERS if "balanced" not in name])
def test_matching_without_a_mask(name, dtype):
    """The mask None is one that is True everywhere. (Upstream's Sinkhorns need one.)"""
    cost, mask = costs(dtype)
    matcher = made(ours, name)
    expected = matcher.compute_matching(cost, torch.ones_like(mask))
    assert torch.equal(matcher.compute_matching(cost, None), expected)


@DTYPES
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("name", MATCHERS)
def test_a_whole_call(name, background, dtype):
    input, target = batch(dtype, (5, 2, 1))
    matcher, theirs = (
        made(x, name, "probability", "sum", background=background, background_cost=3.0)
        for x in (ours, UOTOD)
    )
    assert matcher.plan.startswith("fused")
    matching = matcher(input, target)
    if background or name != "softmin prediction":  # upstream matches padding there
        assert_matching(name, matching, theirs, matcher._last_cost, target["mask"])
    assert matching.shape == (3, 9, 5 + background) and not matching.requires_grad
    assert torch.equal(matcher(input, target, cost_matrix=matcher._last_cost), matching)
    padding = ~target["mask"][:, None].expand(-1, 9, -1)
    assert not matching[..., :5][padding].any()


@pytest.mark.parametrize("name", MATCHERS)
def test_padding_may_be_anywhere(name):
    """**Bug**: upstream gives the mass of targets to the first columns, whatever the mask says."""
    cost, mask = costs(torch.float64)
    order = column_order(mask)
    moved = torch.cat((cost[..., order], cost[..., -1:]), -1)
    matcher = made(ours, name)
    expected = matcher.compute_matching(cost, mask)
    found = matcher.compute_matching(moved, mask[:, order])
    assert not torch.equal(mask[:, order].sort(1, descending=True).values, mask[:, order])
    expected = torch.cat((expected[..., order], expected[..., -1:]), -1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", MATCHERS)
def test_what_stands_in_padding_does_not_matter(name):
    """Sinkhorn's costs are divided by the largest of all, as upstream, so it is left out."""
    cost, mask = costs()
    matcher = made(ours, name)
    padding = ~mask[:, None].expand(-1, 11, -1)
    normalizes = getattr(matcher, "normalize_cost_matrix", False)
    for value in (-1.0, 1.0) if normalizes else (-7.0, torch.nan, 99.0):
        other = cost.clone()
        other[..., :-1][padding] = value
        assert torch.equal(
            matcher.compute_matching(other, mask), matcher.compute_matching(cost, mask)
        )


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("name", MATCHERS)
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0)], ids=str)
def test_empty(name, background, shape):
    images, rows, columns = shape
    cost = torch.full((images, rows, columns + background), 0.5)
    mask = torch.ones(images, columns, dtype=torch.bool)
    matching = made(ours, name, background=background).compute_matching(cost, mask)
    assert matching.shape == cost.shape
    if columns == 0 and background and "unbalanced" not in name and "plain" not in name:
        torch.testing.assert_close(matching.sum(1), torch.full((images, 1), rows * 1.0))


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("name", MATCHERS)
def test_images_without_targets(name, background):
    cost, mask = costs(background=background)
    matching = made(ours, name, background=background).compute_matching(cost * 0 + 1, mask & False)
    assert matching.isfinite().all() and not matching[..., :6].any()


@DTYPES
@pytest.mark.parametrize("name", ["balanced", "unbalanced"])
def test_sinkhorn_in_double_precision(name, dtype):
    """Upstream's loop with masses of the cost's dtype."""
    cost, mask = costs(torch.float64)
    matcher = made(ours, name, reg=0.1)
    counts = mask.sum(1, keepdim=True)
    a = torch.full((3, 11), 1 / 11, dtype=torch.float64)
    b = torch.cat((mask / a.new_tensor(11), (11 - counts) / a.new_tensor(11)), 1)
    taus = {} if name == "balanced" else {"tau_a": 1.0, "tau_b": 1.0}
    plan = UOTOD.sinkhorn(cost / cost.max(), a, b, reg=0.1, num_iter=matcher.num_iter, **taus)
    found = matcher.compute_matching(cost.to(dtype), mask)
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, (11 * plan).to(dtype), rtol=bound, atol=bound)


@pytest.mark.parametrize("name", ["balanced", "unbalanced"])
def test_individual_and_compiled_change_nothing(name):
    cost, mask = costs()
    expected = made(ours, name).compute_matching(cost, mask)
    for options in ({"individual": True}, {"compiled": True}):
        assert torch.equal(made(ours, name, **options).compute_matching(cost, mask), expected)
    plain = ours.Hungarian(loc_match_module=OURS["loc"]["l1"], scipy=False, individual=False)
    expected = made(ours, "hungarian").compute_matching(cost, mask)
    assert torch.equal(plain.compute_matching(cost, mask), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MATCHERS)
def test_half_precision(name, dtype):
    """**Bug**: upstream's Hungarian fails for costs in half precision."""
    cost, mask = costs(dtype)
    matching = made(ours, name).compute_matching(cost, mask)
    assert matching.dtype == dtype
    wide = made(ours, name).compute_matching(cost.float(), mask)
    exact = name.startswith(("hungarian", "closest")) and "uniform" not in name
    if exact:
        assert torch.equal(matching.float(), wide)
    else:
        torch.testing.assert_close(matching.float(), wide, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", [name for name in MATCHERS if "balanced" in name])
def test_costs_of_zero_are_not_divided_by_zero(name):
    cost, mask = costs()
    theirs = made(UOTOD, name)
    assert_matching(name, made(ours, name).compute_matching(cost * 0, mask), theirs, cost * 0, mask)


def test_more_targets_than_predictions():
    cost = torch.rand(2, 3, 8, generator=torch.Generator().manual_seed(0))
    for name in MATCHERS:
        matching = made(ours, name).compute_matching(cost, torch.ones(2, 7, dtype=torch.bool))
        assert matching.isfinite().all()
    rows = made(ours, "hungarian").compute_matching(cost, None)
    assert rows[..., :7].sum((1, 2)).tolist() == [3, 3] and not rows[..., 7].any()


def test_one_prediction_in_several_images():
    """**Bug**: upstream's ClosestPrediction fails."""
    cost = torch.tensor([[[0.5, 0.2, 9.0]], [[-0.5, -0.1, 9.0]]])
    matching = made(ours, "closest prediction").compute_matching(cost, None)
    assert matching.tolist() == [[[1, 1, 0]], [[0, 0, 1]]]


def test_softmin_masks_padding_for_any_reg():
    """**Bug**: for "prediction" and a reg other than 1 upstream does not."""
    cost, mask = costs(torch.float64)
    real = torch.cat((torch.where(mask[:, None], cost[..., :-1], torch.inf), cost[..., -1:]), -1)
    for reg in (0.3, 1.0, 20.0, 1e30):
        matcher = ours.SoftMin(source="prediction", reg=reg, loc_match_module=OURS["loc"]["l1"])
        found = matcher.compute_matching(cost, mask)
        torch.testing.assert_close(found, (-real / reg).softmax(2))
        matcher.background = False
        assert not matcher.compute_matching(cost[..., :-1], mask & False).any()


def test_closest_target_leaves_the_cost_alone():
    """**Bug**: upstream writes infinity into it; so it does in SoftMin."""
    cost, mask = costs()
    for name in ("closest target", "softmin prediction"):
        given = cost.clone()
        made(ours, name).compute_matching(given, mask)
        assert torch.equal(given, cost)


def test_where_upstream_underflows_the_plan_is_finite():
    cost, mask = costs()
    matcher, theirs = (made(x, "balanced", reg=1e-4) for x in (ours, UOTOD))
    assert theirs.compute_matching(cost, mask).isnan().any()
    matching = matcher.compute_matching(cost, mask)
    assert matching.isfinite().all()
    b = torch.cat((mask.float(), 11 - mask.sum(1, keepdim=True).float()), 1)
    torch.testing.assert_close(matching.sum(1), b)


def test_one_share_of_the_background_for_all():
    cost, mask = costs()
    matcher = made(ours, "closest prediction uniform")
    matching = matcher.compute_matching(cost, mask)
    share = 1 - matching[..., :-1].sum((1, 2)) / 11
    torch.testing.assert_close(matching[..., -1], share[:, None].expand(-1, 11))
