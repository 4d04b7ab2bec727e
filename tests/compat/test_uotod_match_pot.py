"""**Bug**: upstream's BalancedPOT and UnbalancedPOT cannot run. Ours against calls of POT."""

import sys

import pytest
import torch
from references import or_skip, pot
from torch import nn
from uotod_cases import batch, column_order, costs

from fastloss.compat import uotod as ours

OT = or_skip(pot)
L1 = nn.L1Loss(reduction="none")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
quiet = pytest.mark.filterwarnings(
    "ignore:.*(did not converge|umerical|sinkhorn)", "ignore::UserWarning"
)


def expected(cost, mask, reg, solve):
    """P times the plan of the real columns of each image and the background."""
    result, rows = torch.zeros_like(cost), cost.shape[1]
    cost = cost / cost.max()
    for i, real in enumerate(mask):
        there = torch.cat((real, torch.tensor([True])))
        b = torch.full((int(there.sum()),), 1 / rows, dtype=cost.dtype)
        b[-1] = (rows - real.sum()) / rows
        a = torch.full((rows,), 1 / rows, dtype=cost.dtype)
        result[i][:, there] = rows * solve(a, b, cost[i][:, there], reg)
    return result


@quiet
@DTYPES
@pytest.mark.parametrize("method", ours.BalancedPOT.available_methods)
def test_balanced(method, dtype):
    cost, mask = costs(dtype)
    found = ours.BalancedPOT(method=method, reg=0.2).compute_matching(cost, mask)
    name = {"greenkorn": "greenkhorn"}.get(method, method)

    def solve(a, b, cost, reg):
        return OT.bregman.sinkhorn(a, b, cost, reg, method=name)

    torch.testing.assert_close(found, expected(cost, mask, 0.2, solve), rtol=2e-5, atol=1e-6)
    assert found.dtype == dtype
    b = torch.cat((mask.to(dtype), 11 - mask.sum(1, keepdim=True).to(dtype)), 1)
    torch.testing.assert_close(found.sum(1), b, rtol=2e-2, atol=2e-2)


@quiet
@DTYPES
@pytest.mark.parametrize("method", ours.UnbalancedPOT.available_methods)
def test_unbalanced(method, dtype):
    cost, mask = costs(dtype)
    matcher = ours.UnbalancedPOT(method=method, reg_pred_target=0.5)
    found = matcher.compute_matching(cost, mask)

    def solve(a, b, cost, reg):
        return OT.unbalanced.sinkhorn_unbalanced(a, b, cost, reg, reg_m=0.5, method=method)

    reg = 0.12 / (torch.tensor(22.0).log().item() + 1)
    torch.testing.assert_close(found, expected(cost, mask, reg, solve), rtol=1e-4, atol=1e-6)


@quiet
def test_balanced_is_that_of_our_own_kernel():
    """At convergence."""
    cost, mask = costs(torch.float64)
    found = ours.BalancedPOT(reg=0.3).compute_matching(cost, mask)
    expected = ours.BalancedSinkhorn(reg=0.3, num_iter=500).compute_matching(cost, mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@quiet
def test_a_whole_call_and_padding_anywhere():
    input, target = batch(torch.float64)
    matcher = ours.UnbalancedPOT(loc_match_module=L1, background_cost=1.0)
    matching = matcher(input, target)
    assert matching.shape == (3, 9, 6) and not matching[2, :, :5].any()
    order = column_order(target["mask"])
    moved = {name: x[:, order] for name, x in target.items()}
    torch.testing.assert_close(matcher(input, moved)[..., :5], matching[..., order])
    bare = ours.BalancedPOT(loc_match_module=L1, background=False)
    assert bare(input, target).sum(1).isfinite().all()


def test_defaults_and_errors(monkeypatch):
    assert ours.BalancedPOT().method == ours.UnbalancedPOT().method == "sinkhorn"
    for kind, method in ((ours.BalancedPOT, "sinkhorn_reg_scaling"), (ours.UnbalancedPOT, "emd")):
        with pytest.raises(AssertionError, match="method must be one of"):
            kind(method=method)
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastloss\[pot\]'"):
        ours.BalancedPOT()
