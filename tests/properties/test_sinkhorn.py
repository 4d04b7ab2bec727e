"""Transport plans against a straightforward solution in logarithms, and what plans must be."""

import math

import pytest
import torch

import fastloss.functional as F
from fastloss.testing import implementation
from fastloss.testing.samples.sinkhorn import problem

REGS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
TAUS = ((None, None), (1.0, 1.0), (1e3, 1e-3), (None, 0.5), (1e-3, None))
SHAPES = ((5, 3), (65, 20), (300, 7))


def costs(seed: int, rows: int, targets: int, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [x.to(dtype) for x in problem(g, 2, rows, targets)]


def solve(cost, a, b, reg, num_iter, tau_a, tau_b):
    """Plan and potentials of one image in float64, entry by entry as the definition has it."""
    cost, a, b = cost.double(), a.double(), b.double()
    power_a = 1 if tau_a is None else tau_a / (tau_a + reg)
    power_b = 1 if tau_b is None else tau_b / (tau_b + reg)
    log_u = torch.zeros_like(a)
    for i in range(num_iter + 1):
        log_v = power_b * (b.log() - (log_u[:, None] - cost / reg).logsumexp(0))
        if i < num_iter:
            log_u = power_a * (a.log() - (log_v[None] - cost / reg).logsumexp(1))
    return (log_u[:, None] + log_v[None] - cost / reg).exp(), reg * log_u, reg * log_v


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("taus", TAUS, ids=str)
@pytest.mark.parametrize("reg", REGS)
def test_equals_logarithms_for_any_regularisation(reg, taus, dtype):
    """Whatever underflows on the way. In float64 the rounding of cost / reg is lost."""
    for seed, shape in enumerate(SHAPES):
        cost, a, b = costs(seed, *shape, dtype=dtype)
        for num_iter in (1, 20):
            options = {"reg": reg, "num_iter": num_iter, "tau_a": taus[0], "tau_b": taus[1]}
            results = F.sinkhorn(cost, a, b, return_potentials=True, **options)
            for image, result in enumerate(zip(*results)):
                used = b[image] > 0
                expected = solve(cost[image][:, used], a[image], b[image][used], *options.values())
                found = (result[0][:, used], result[1], result[2][used])
                assert not result[0][:, ~used].any() and (result[2][~used] == -math.inf).all()
                size = expected[0].square().mean().sqrt() + expected[0].abs() + 1e-30
                bounds = (
                    size / min(reg, 1),
                    2 + 2 * reg,
                    2 + 2 * reg,
                )  # potentials: in units of cost
                if dtype == torch.float32:
                    bounds = (size, *bounds[1:])
                for x, y, bound in zip(found, expected, bounds):
                    assert x.isfinite().all()
                    assert ((x - y).abs() <= 64 * torch.finfo(dtype).eps * bound).all()


@pytest.mark.parametrize("reg", (0.01, 0.1, 1.0))
@pytest.mark.parametrize("scale", (1e-30, 1e-15, 1.0, 1e15, 1e30))
def test_masses_over_many_orders_of_magnitude(scale, reg):
    """Also the least have their share, to the last digits; masses and plan scale together."""
    cost, a, b = costs(5, 40, 6)
    b = b.clamp(min=0.01)
    a = a * torch.logspace(-15, 0, 40) if scale >= 1 else a
    plan, f, g = F.sinkhorn(cost, a * scale, b * scale, reg=reg, return_potentials=True)
    for image in range(2):
        inputs = cost[image], a[image] * scale, b[image] * scale
        expected = solve(*inputs, reg, 20, None, None)
        for sums in (lambda x: x.double().sum(0), lambda x: x.double().sum(1)):
            torch.testing.assert_close(sums(plan[image]), sums(expected[0]), rtol=2e-5, atol=0)
        assert (f[image] - expected[1]).abs().max() < 1e-4 * max(reg, 0.1)
        assert (g[image] - expected[2]).abs().max() < 1e-4 * max(reg, 0.1)


@pytest.mark.parametrize("cost", (-88.0, -85.0, 80.0))
def test_unbalanced_plans_at_the_ends_of_float(cost):
    """Next to no weight on the masses: u and v stay near 1, and the plan near exp(-cost / reg)."""
    costs = torch.full((1, 300, 4), cost)
    options = {"reg": 1.0, "num_iter": 5, "tau_a": 1e-3, "tau_b": 1e-3}
    masses = torch.full((1, 300), 1 / 300), torch.full((1, 4), 0.25)
    found = F.sinkhorn(costs, *masses, return_potentials=True, **options)
    expected = solve(costs[0], masses[0][0], masses[1][0], *options.values())
    for x, y in zip(found, expected):
        torch.testing.assert_close(x[0].double(), y, rtol=1e-5, atol=1e-6 * (y.dim() == 1))


def test_equals_exponentials_where_they_do_not_underflow():
    """uotod's formulas, in float64."""
    cost, a, b = costs(0, 40, 6, torch.float64)
    b = b.clamp(min=0.01)
    k, u = torch.exp(-cost / 0.1), torch.ones_like(a)
    for _ in range(7):
        v = (b / (k * u[:, :, None]).sum(1)) ** (2 / 2.1)
        u = (a / (k * v[:, None]).sum(2)) ** (3 / 3.1)
    v = (b / (k * u[:, :, None]).sum(1)) ** (2 / 2.1)
    plan = F.sinkhorn(cost, a, b, reg=0.1, num_iter=7, tau_a=3.0, tau_b=2.0)
    torch.testing.assert_close(plan, u[:, :, None] * k * v[:, None], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("language", ("auto", "reference"))
def test_masses_are_kept_when_balanced(language):
    cost, a, b = costs(1, 50, 8)
    with implementation(language) if language != "auto" else torch.no_grad():
        plan = F.sinkhorn(cost, a, b, reg=0.1, num_iter=300)
    torch.testing.assert_close(plan.sum(2), a, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(plan.sum(1), b, rtol=1e-4, atol=1e-7)


def test_images_do_not_influence_one_another():
    cost, a, b = costs(2, 70, 9)
    together = F.sinkhorn(cost, a, b, reg=0.02)
    for image in range(2):
        one = slice(image, image + 1)
        assert torch.equal(F.sinkhorn(cost[one], a[one], b[one], reg=0.02), together[one])
    bad = cost.clone()
    bad[0, 3, -1] = torch.nan
    plan = F.sinkhorn(bad, a, b, reg=0.02)
    assert plan[0].isnan().all() and torch.equal(plan[1], together[1])


@pytest.mark.parametrize("reg", (0.02, 1e-4))
def test_what_has_no_mass_never_matters(reg):
    cost, a, b = costs(3, 30, 9)
    a[0, 4] = 0
    expected = F.sinkhorn(cost, a, b, reg=reg, return_potentials=True)
    unused = ~((a > 0)[:, :, None] & (b > 0)[:, None])
    assert unused[1].any() and not expected[0][unused].any()
    for value in (torch.nan, -torch.inf, torch.inf, -1e30):
        other = F.sinkhorn(cost.masked_fill(unused, value), a, b, reg=reg, return_potentials=True)
        assert all(torch.equal(x, y) for x, y in zip(other, expected))


@pytest.mark.parametrize("taus", TAUS, ids=str)
def test_stops_after_the_round_that_moved_least(taus):
    cost, a, b = costs(4, 60, 5)
    options = {"reg": 0.1, "tau_a": taus[0], "tau_b": taus[1]}

    def after(rounds):
        return F.sinkhorn(cost, a, b, num_iter=rounds, return_potentials=True, **options)

    log_v = [after(rounds)[2].double() / 0.1 for rounds in range(1, 40)]
    moves = [(y - x).nan_to_num().abs().amax(1) for x, y in zip(log_v, log_v[1:])]
    tol = 0.03
    stopped = F.sinkhorn(cost, a, b, num_iter=40, tol=tol, **options)
    for image in range(2):
        first = next(i for i, move in enumerate(moves) if move[image] <= tol)
        # The first round may move v little from where it starts, u = 1.
        rounds = [first + 2] if first else [1, 2]
        assert any(torch.equal(stopped[image], after(r)[0][image]) for r in rounds)
    forever = F.sinkhorn(cost, a, b, num_iter=7, tol=0, **options)
    assert torch.equal(forever, after(7)[0])


def test_a_column_that_nothing_reaches_does_not_keep_an_image_from_stopping():
    g = torch.Generator().manual_seed(0)
    cost, a, b = torch.rand(1, 60, 5, generator=g), torch.ones(1, 60) / 60, torch.ones(1, 5) / 4
    cost[:, :, 2] = torch.inf
    after = {
        i: F.sinkhorn(cost, a, b, reg=0.1, num_iter=i, return_potentials=True) for i in range(1, 7)
    }
    moves = {i: (after[i][2] - after[i - 1][2]).nan_to_num().abs().max() for i in range(2, 7)}
    assert moves[4] > 0.0014 > moves[5]
    stopped = F.sinkhorn(cost, a, b, reg=0.1, num_iter=500, tol=0.014)
    assert torch.equal(stopped, after[5][0])


@pytest.mark.parametrize("taus", TAUS[:2] + TAUS[3:4], ids=str)
def test_cost_of_transport_is_the_least_and_its_gradient_the_plan(taus):
    """At convergence the dual objective is the primal one, and finite differences see the plan."""
    g = torch.Generator().manual_seed(0)
    cost, a, b = problem(g, 1, 6, 3)
    b = b.clamp(min=0.05)
    a = a * b.sum() / a.sum()
    options = {"reg": 0.1, "num_iter": 2000, "tau_a": taus[0], "tau_b": taus[1]}
    cost.requires_grad_()
    value = F.transport_cost(cost, a, b, **options)
    plan = F.sinkhorn(cost, a, b, **options)
    assert torch.equal(torch.autograd.grad(value.sum(), cost)[0], plan)
    primal = (plan * cost).sum() + 0.1 * (plan * (plan.log() - 1)).sum()
    for tau, mass, sums in ((taus[0], a, plan.sum(2)), (taus[1], b, plan.sum(1))):
        if tau is not None:
            primal = primal + tau * (sums * (sums / mass).log() - sums + mass).sum()
    torch.testing.assert_close(value.sum(), primal, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: F.transport_cost(x, a, b, **options), (cost,))


def test_a_mass_that_reaches_nothing_is_paid_for():
    """As the mass of a row whose costs are so high that its plan is next to nothing."""
    cost, a, b = costs(6, 9, 3, torch.float64)
    b = b.clamp(min=0.05)
    values = []
    for high in (500.0, math.inf):
        cost[0, 2] = high
        cost[1, :, 1] = high
        options = {"reg": 0.1, "num_iter": 2000, "tau_a": 1.0, "tau_b": 0.5}
        values.append(F.transport_cost(cost, a, b, **options))
    torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=0)


def test_the_gradient_of_a_bad_image_is_nan():
    cost, a, b = costs(7, 9, 3)
    a[1, 0] = -1.0
    cost.requires_grad_()
    F.transport_cost(cost, a, b, reg=0.1).sum().backward()
    assert cost.grad[0].isfinite().all() and cost.grad[1].isnan().all()
