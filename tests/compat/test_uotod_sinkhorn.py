"""`fastloss.functional.sinkhorn` against the loops of uotod's matchers, where these are finite."""

import pytest
import torch
from references import or_skip, uotod

import fastloss.functional as F
from fastloss.testing.samples.sinkhorn import problem

UOTOD = or_skip(uotod)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("taus", ((None, None), (1.0, 1.0), (1e3, 1e-3), (None, 1.0)), ids=str)
@pytest.mark.parametrize("shape", ((3, 1), (100, 10), (300, 40)), ids=str)
def test_plan(shape, taus, dtype):
    g = torch.Generator().manual_seed(sum(shape))
    cost, a, b = (x.to(dtype) for x in problem(g, 3, *shape))
    options = {"reg": 0.03, "num_iter": 20, "tau_a": taus[0], "tau_b": taus[1]}
    expected = UOTOD.sinkhorn(cost, a, b, **options)
    assert expected.isfinite().all()
    found = F.sinkhorn(cost, a, b, **options)
    # In float32 its loop loses what cost / reg, up to 33, is rounded by in each exponential.
    bound = 2e-5 if dtype == torch.float32 else 1e-12
    assert ((found - expected).abs() <= bound * (expected.abs() + expected.mean())).all()


def test_where_exponentials_underflow_the_plan_is_finite():
    cost, a, b = (x.float() for x in problem(torch.Generator().manual_seed(0), 2, 50, 5))
    cost[:, 7] = 1.0  # exp(-1 / reg) is 0, and so is the sum of this row
    options = {"reg": 0.005, "num_iter": 20}
    assert not UOTOD.sinkhorn(cost, a, b, **options).isfinite().all()
    plan = F.sinkhorn(cost, a, b, **options)
    exact = F.sinkhorn(cost.double(), a.double(), b.double(), **options)
    assert (plan - exact).abs().max() < 1e-6 * exact.max()
