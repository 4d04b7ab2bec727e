"""What a call of `linear_assignment` accepts, refuses, and moves between devices."""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastloss
import fastloss.functional as F
from fastloss.testing import capture, implementation

COST = torch.tensor([[[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]]])
EXPECTED = [[1, 0, 2]]


@pytest.mark.parametrize(
    "dtype",
    (
        torch.float8_e4m3fn,
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int64,
        torch.uint8,
        torch.uint16,
    ),
    ids=str,
)
def test_any_real_dtype(dtype):
    assert F.linear_assignment(COST.to(dtype)).tolist() == EXPECTED


def test_bool():
    assert F.linear_assignment(COST > 2).tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("language", ("auto", "reference", "host"))
def test_large_integers_are_not_rounded(language):
    cost = torch.tensor([[[2**53 - 1, 2**53 - 2], [2**53 - 2, 2**53 - 2]]])
    with implementation(language) if language != "auto" else torch.no_grad():
        assert F.linear_assignment(cost).tolist() == [[1, 0]]


def test_result_has_no_gradient():
    assert not F.linear_assignment(COST.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("language", ("auto", "reference", "host"))
@pytest.mark.parametrize("fill", (0.0, -1e30, torch.nan, torch.inf, -torch.inf))
def test_padding_never_matters(fill, language):
    g = torch.Generator().manual_seed(0)
    cost = torch.randn(6, 9, 7, generator=g)
    mask = torch.rand(6, 7, generator=g) < 0.6
    mask[0] = False
    expected = F.linear_assignment(cost, mask)
    assert (expected[0] == -1).all() and (expected >= 0).sum() == mask.sum()
    other = torch.where(mask[:, None], cost, fill)
    with implementation(language) if language != "auto" else torch.no_grad():
        assert torch.equal(F.linear_assignment(other, mask), expected)


def test_columns_left_over():
    """More targets than predictions: each row has its column, the others have none."""
    wide = torch.tensor([[[5.0, 1.0, 9.0, 2.0], [1.0, 1.5, 9.0, 9.0]]])
    assert F.linear_assignment(wide).tolist() == [[1, 0, -1, -1]]


@pytest.mark.parametrize("language", ("auto", "reference", "host"))
@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("shape", ((2, 0, 3), (2, 3, 0), (0, 2, 3)), ids=str)
def test_nothing_to_match(shape, masked, language):
    mask = torch.ones(shape[0], shape[2], dtype=torch.bool) if masked else None
    with implementation(language) if language != "auto" else torch.no_grad():
        chosen = F.linear_assignment(torch.empty(shape), mask)
        pairs = F.linear_sum_assignment(torch.empty(shape), mask)
    assert chosen.shape == (shape[0], shape[2]) and (chosen == -1).all()
    assert [(len(rows), len(columns)) for rows, columns in pairs] == [(0, 0)] * shape[0]


BAD = {
    "nan": (torch.tensor([[1.0, torch.nan], [0.0, 2.0]]), "problem 1 must not hold NaN or -inf"),
    "minus": (torch.tensor([[1.0, 0.0], [-torch.inf, 2.0]]), "problem 1 must not hold NaN or -inf"),
    "first": (torch.tensor([[-torch.inf, 0.0], [1.0, 2.0]]), "problem 1 must not hold NaN or -inf"),
    "row": (torch.tensor([[1.0, 0.0], [torch.inf, torch.inf]]), "problem 1 is infeasible"),
    "column": (torch.tensor([[1.0, torch.inf], [0.0, torch.inf]]), "problem 1 is infeasible"),
}


@pytest.mark.parametrize("language", ("auto", "reference"))
@pytest.mark.parametrize("name", BAD)
def test_cost_without_an_answer_raises_as_in_scipy(name, language):
    bad, message = BAD[name]
    cost = torch.stack((COST[0, :2, :2], bad, bad))
    with pytest.raises(ValueError, match=message):
        with implementation(language) if language != "auto" else torch.no_grad():
            F.linear_assignment(cost)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("shape", ((20, 3), (3, 20), (9, 9)), ids=str)
@pytest.mark.parametrize("value", (torch.nan, -torch.inf))
def test_bad_cost_is_found_anywhere(value, shape, dtype):
    """In every lane and block of the loops over tall and wide matrices."""
    cost = torch.zeros(1, *shape, dtype=dtype)
    for at in itertools.product(*map(range, shape)):
        bad = cost.clone()
        bad[0][at] = value
        with pytest.raises(ValueError, match="problem 0 must not hold NaN or -inf"):
            F.linear_assignment(bad)


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("name", BAD)
def test_other_devices_get_no_answer_for_that_problem(name, masked):
    """As on a GPU, the CPU standing for it: -1 for the bad problem, the others solved."""
    good, (bad, _) = COST[0, :2, :2], BAD[name]
    mask = torch.ones(3, 2, dtype=torch.bool) if masked else None
    call = fastloss._library.OPS["linear_assignment"].implementations["host"]
    result = call(torch.stack((good, bad, good)), mask, False)
    assert result.tolist() == [[1, 0], [-1, -1], [1, 0]]


@pytest.mark.parametrize("device,strict", (("cpu", True), ("meta", False)))
def test_only_the_cpu_raises(device, strict):
    with capture() as calls:
        F.linear_assignment(COST.to(device))
    assert [args[2] for _, args in calls] == [strict]


class Transfers(TorchDispatchMode):
    """Copies between devices."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        first = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if first is not None and isinstance(result, torch.Tensor):
            if result.device.type != first.device.type:
                self.seen.append((first.device.type, result.device.type))
        return result


@pytest.mark.parametrize("masked", (False, True))
def test_one_transfer_each_way(masked):
    """Tensors that claim to be on a GPU."""
    call = fastloss._library.OPS["linear_assignment"].implementations["host"]
    with FakeTensorMode(), Transfers() as transfers:
        cost = torch.empty(4, 9, 5, device="cuda")
        mask = torch.empty(4, 5, device="cuda", dtype=torch.bool) if masked else None
        result = call(cost, mask, False)
    assert transfers.seen == [("cuda", "cpu"), ("cpu", "cuda")]
    assert result.device.type == "cuda" and result.shape == (4, 5)


@pytest.mark.parametrize("built", (False, True))
def test_backends_shows_the_transfers(built, monkeypatch):
    """And what does the work between them, which is the reference where C++ is not built."""
    monkeypatch.setattr(fastloss._library, "_has_kernel", lambda op, key: built or key == "CUDA")
    monkeypatch.setitem(fastloss._library.UNAVAILABLE, "cpp", "no compiler")
    shown = fastloss.backends()["linear_assignment"]["cuda"]
    assert shown.startswith("C++ on" if built else "reference (no C++: no compiler) on")
    assert "on the CPU and a transfer each way" in shown


@pytest.mark.parametrize("shape", ((5, 20, 4), (5, 4, 20)), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=str)
def test_unusual_layouts(dtype, shape):
    g = torch.Generator().manual_seed(0)
    cost = torch.randn(shape, generator=g).to(dtype)
    mask = torch.rand(5, shape[2], generator=g) < 0.7
    expected = F.linear_assignment(cost, mask)
    gaps = torch.full((5, 2 * shape[1], shape[2] + 3), torch.nan, dtype=dtype)[:, ::2, 1:-2]
    gaps.copy_(cost)
    assert torch.equal(F.linear_assignment(gaps), F.linear_assignment(cost))
    for other in (cost.mT.contiguous().mT, cost.movedim(0, -1).contiguous().movedim(-1, 0), gaps):
        assert torch.equal(F.linear_assignment(other, mask.mT.contiguous().mT), expected)
    shared = cost[:1].expand(5, -1, -1)
    assert torch.equal(F.linear_assignment(shared), F.linear_assignment(shared.contiguous()))


@pytest.mark.parametrize(
    "call,error,message",
    [
        (lambda: F.linear_assignment([[1.0]]), TypeError, "cost must be a tensor, got list"),
        (lambda: F.linear_assignment(COST[0]), ValueError, r"shape \(B, N, M\), got \(3, 3\)"),
        (lambda: F.linear_assignment(COST.cfloat()), TypeError, "real, got torch.complex64"),
        (lambda: F.linear_assignment(COST, [True]), TypeError, "mask must be a tensor, got list"),
        (
            lambda: F.linear_assignment(COST, torch.ones(1, 3)),
            TypeError,
            "mask must be of dtype torch.bool, got torch.float32",
        ),
        (
            lambda: F.linear_assignment(COST, torch.ones(3, 1).bool()),
            ValueError,
            r"mask must have shape \(1, 3\), got \(3, 1\)",
        ),
        (
            lambda: F.linear_sum_assignment(COST, torch.ones(1, 3, device="meta").bool()),
            ValueError,
            "mask must be on the device of cost, cpu, got meta",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
