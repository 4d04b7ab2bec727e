"""What a call of `sinkhorn` accepts and refuses."""

import pytest
import torch

import fastloss.functional as F
from fastloss.testing.samples.sinkhorn import problem

COST, A, B = (x.float() for x in problem(torch.Generator().manual_seed(0), 3, 7, 4))
GOOD = {"cost": COST, "a": A, "b": B, "reg": 0.1}


@pytest.mark.parametrize("function", (F.sinkhorn, F.transport_cost))
@pytest.mark.parametrize(
    "change,error,message",
    [
        ({"cost": [1.0]}, TypeError, "cost must be a tensor, got list"),
        ({"cost": COST.long()}, TypeError, "cost must be float16, .* got torch.int64"),
        ({"cost": COST[0]}, ValueError, r"cost must have shape \(B, N, M\), got \(7, 5\)"),
        ({"a": A.long()}, TypeError, "a must be float16, .* got torch.int64"),
        ({"a": B}, ValueError, r"a must have shape \(3, 7\), got \(3, 5\)"),
        ({"b": B[:2]}, ValueError, r"b must have shape \(3, 5\), got \(2, 5\)"),
        ({"b": B.to("meta")}, ValueError, "b must be on the device of cost, cpu, got meta"),
        ({"reg": 0}, ValueError, "reg must be > 0, got 0"),
        ({"reg": float("inf")}, ValueError, "reg must be finite, got inf"),
        ({"num_iter": 0}, ValueError, "num_iter must be >= 1, got 0"),
        ({"num_iter": 2.0}, TypeError, "num_iter must be an int, got float"),
        ({"num_iter": True}, TypeError, "num_iter must be an int, got bool"),
        ({"tau_a": 0.0}, ValueError, "tau_a must be > 0, got 0"),
        ({"tau_b": "1"}, TypeError, "tau_b must be a number, got str"),
        ({"tol": -1}, ValueError, "tol must be >= 0, got -1"),
    ],
)
def test_bad_arguments(function, change, error, message):
    with pytest.raises(error, match=message):
        function(**{**GOOD, **change})


def test_bad_flag():
    with pytest.raises(TypeError, match="return_potentials must be True or False, got int"):
        F.sinkhorn(**GOOD, return_potentials=1)


@pytest.mark.parametrize("bad", (-1e-3, float("nan"), float("inf")))
@pytest.mark.parametrize("name", ("a", "b"))
def test_bad_masses_spoil_their_image_alone(name, bad):
    mass = GOOD[name].clone()
    mass[1, 2] = bad
    plan, f, g = F.sinkhorn(**{**GOOD, name: mass}, return_potentials=True)
    assert plan[1].isnan().all() and f[1].isnan().all() and g[1].isnan().all()
    assert torch.equal(plan[::2], F.sinkhorn(**GOOD)[::2])


def test_plan_has_no_gradient():
    assert not F.sinkhorn(**{**GOOD, "cost": COST.clone().requires_grad_()}).requires_grad


def test_masses_of_another_dtype():
    plan = F.sinkhorn(COST.double(), A, B, reg=0.1)
    assert torch.equal(plan, F.sinkhorn(COST.double(), A.double(), B.double(), reg=0.1))
    assert F.sinkhorn(COST.half(), A, B, reg=0.1).dtype == torch.float16


def test_no_targets_leave_all_to_the_background():
    b = torch.zeros_like(B)
    b[:, -1] = 1
    plan = F.sinkhorn(COST, A, b, reg=0.1)
    assert torch.allclose(plan[:, :, -1], A) and not plan[:, :, :-1].any()
