"""The bench checks numbers before it times, and times and counts what it says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from bench_cases import CPU, doubled, tiny

from bench import contenders, memory, records, runner, timing
from bench.contenders import EAGER, FASTLOSS, Contender
from bench.inputs import Source
from bench.timing import Timing
from bench.workloads import WORKLOADS


def run(workload, function, monkeypatch, on=CPU):
    """Records of eager and of `function` in the place of fastloss."""
    monkeypatch.setattr(timing, "ROUND_MS", 0.0)
    builders = {
        EAGER: lambda: Contender(EAGER, "plain", contenders.plain(workload)),
        FASTLOSS: lambda: Contender(FASTLOSS, "test", function),
    }
    found = runner.run_workload(workload, rounds=2, builders=builders, on=on)
    return {record.contender: record for record in found}


@pytest.mark.parametrize("name", WORKLOADS)
def test_fastloss_and_baseline_agree(name, monkeypatch):
    workload = tiny(name)
    try:
        contenders.plain(workload)
    except ImportError as missing:
        pytest.skip(str(missing))
    found = run(workload, contenders.ours(workload, CPU.device).function, monkeypatch)
    assert set(found) == {EAGER, FASTLOSS}
    for record in found.values():
        assert record.status == records.OK, f"{record.contender}: {record.status}, {record.error}"
        assert record.median_ms > 0 and record.peak_mb > 0
    assert found[EAGER].ratio == 1


def _shifted(plain):
    # The gradients are right.
    return lambda *args, **kwargs: plain(*args, **kwargs) + 0.1


def _wrong_sign_of_gradient(plain):
    def loss(*args, **kwargs):
        value = plain(*args, **kwargs)
        return 2 * value.detach() - value

    return loss


def _not_a_number(plain):
    return lambda *args, **kwargs: plain(*args, **kwargs) * float("nan")


def _gradient_not_a_number(plain):
    # sqrt at 0: the value is right, the gradient is infinity times zero.
    return lambda pred, *args, **kwargs: plain(pred, *args, **kwargs) + (pred * 0).sum().sqrt()


def _one_pair_wrong(plain):
    def matrix(*args):
        value = plain(*args).clone()
        value[0, 1, 2] += 0.1
        return value

    return matrix


def _wrong_gradient_of_second_set(plain):
    # The value of the second set, twice its gradient.
    return lambda first, second: plain(first, 2 * second - second.detach())


def _total_doubled(plain):
    # The terms, which are reported beside it, are right.
    def loss(*args, **kwargs):
        total, terms = plain(*args, **kwargs)
        return 2 * total, terms

    return loss


def _broadcast(plain):
    # Right numbers in a wrong shape.
    return lambda *args: plain(*args)[None]


_SPOILS = (doubled, _shifted, _wrong_sign_of_gradient, _not_a_number, _gradient_not_a_number)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *[("aligned_giou", spoil) for spoil in _SPOILS],
        *[("pair_giou.ssd.fb", spoil) for spoil in (*_SPOILS, _wrong_gradient_of_second_set)],
        *[("pair_iou.ssd.f", spoil) for spoil in (doubled, _not_a_number)],
        *[("pair_iou.ssd.f", spoil) for spoil in (_one_pair_wrong, _broadcast)],
        ("dice_mc", _total_doubled),
    ],
)
def test_wrong_numbers_are_not_timed(name, spoil, monkeypatch):
    workload = tiny(name)
    found = run(workload, spoil(contenders.plain(workload)), monkeypatch)
    assert found[EAGER].status == records.OK
    assert found[FASTLOSS].status == records.WRONG
    assert found[FASTLOSS].median_ms is None and found[FASTLOSS].ratio is None


def _count_modes(plain, modes):
    def function(*args):
        modes.add((torch.is_grad_enabled(), *(arg.requires_grad for arg in args)))
        return plain(*args)

    return function


@pytest.mark.parametrize(
    ("name", "mode"),
    [("pair_giou.ssd.f", (False, False, False)), ("pair_giou.ssd.fb", (True, True, True))],
)
def test_forward_alone_builds_no_graph(name, mode, monkeypatch):
    workload, modes = tiny(name), set()
    found = run(workload, _count_modes(contenders.plain(workload), modes), monkeypatch)
    assert found[FASTLOSS].status == records.OK
    assert modes == {mode}


def test_gradients_come_from_the_whole_matrix_and_are_freed():
    workload = tiny("pair_iou.ssd.fb")
    inputs = workload.make_inputs(Source("cpu"), workload.sizes["small"])
    seen = []

    def function(first, second):
        seen[:] = [first, second]
        product = first.sum(-1)[..., :, None] * second.sum(-1)[..., None, :]  # (B, N, M)
        product.register_hook(lambda grad: seen.append(grad))
        return product

    contenders.make_step(function, inputs)()
    first, second, incoming = seen
    assert first.grad is None and second.grad is None
    assert torch.equal(incoming, inputs.incoming) and incoming.shape == workload.sizes["small"]
    assert int((incoming == 0).sum()) == 0


def test_fastloss_is_held_to_its_own_tolerance(monkeypatch):
    workload = tiny("aligned_giou")
    plain = contenders.plain(workload)

    def slightly_off(*args, **kwargs):
        return plain(*args, **kwargs) * (1 + 2e-5)

    monkeypatch.setattr(timing, "ROUND_MS", 0.0)
    builders = {
        name: lambda name=name: Contender(name, "test", slightly_off) for name in (EAGER, FASTLOSS)
    }
    eager, ours = runner.run_workload(workload, rounds=1, builders=builders, on=CPU)
    assert eager.status == records.OK and eager.error == pytest.approx(2e-5, rel=0.1)
    assert ours.status == records.WRONG and ours.tolerance < 1e-5


def test_ratio_is_the_median_of_ratios_within_a_round():
    base = Timing((10.0, 100.0, 30.0), (0.0,) * 3, 1)
    other = Timing((5.0, 10.0, 30.0), (0.0,) * 3, 1)
    assert timing.ratio(base, other) == 2.0  # of 2, 10 and 1; the ratio of the medians would be 3
    assert timing.ratio(base, base) == 1.0


def test_scaling_is_timed_against_one_thread_and_is_no_opponent(monkeypatch):
    workload, seen = tiny("pair_iou.ssd.f"), set()
    plain = contenders.plain(workload)

    def function(*args):
        seen.add(torch.get_num_threads())
        return plain(*args)

    two = dataclasses.replace(CPU, threads=2)
    for on, counts in ((CPU, {1}), (two, {1, 2})):
        seen.clear()
        found = run(workload, function, monkeypatch, on)
        assert seen == counts and set(found) == {EAGER, FASTLOSS}
        assert (found[FASTLOSS].scaling is not None) == (on is two)
        assert found[FASTLOSS].best == EAGER and found[EAGER].scaling is None


def test_quantiles():
    times = Timing((4.0, 1.0, 2.0, 3.0, 5.0, 6.0), (0.0,) * 6, 1)
    assert (times.quantile(0.2), times.median(), times.quantile(0.8)) == (2.0, 3.5, 5.0)


def test_a_group_is_timed_in_the_same_rounds(monkeypatch):
    order = []
    workloads = [tiny("dice.alone"), tiny("all.without_dice")]

    def ours(workload, device):
        def function(*args, **kwargs):
            order.append(workload.name[0])
            return contenders.plain(workload)(*args, **kwargs)

        return Contender(FASTLOSS, "test", function)

    monkeypatch.setattr(contenders, "ours", ours)
    monkeypatch.setattr(timing, "ROUND_MS", 0.0)
    found = runner.run_together(workloads, rounds=2, on=CPU)
    assert [(r.workload, r.contender) for r in found] == [(w.name, FASTLOSS) for w in workloads]
    assert all(r.status == records.OK and r.ratio is None for r in found)
    assert "".join(order).endswith("ddaa" + "dada")  # two warm-up calls each, then the rounds
    assert runner.units(workloads, 2, True) == 2 + 2


def test_rounds_alternate(monkeypatch):
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "ABC"}
    monkeypatch.setattr(timing, "ROUND_MS", 0.0)
    timing.alternate(steps, timing.Clock(), rounds=2)
    assert "".join(order) == "AABBCC" + "ABCABC"  # two warm-up calls each, then the rounds


def test_peak_memory_counts_what_is_alive_at_once():
    x = torch.ones(100_000)  # 0.4 MB

    def step():
        for _ in range(3):
            x + 1
        y = x * 2
        y.add_(x - 3)

    assert memory.peak_bytes(step, torch.device("cpu")) == pytest.approx(2 * 400_000, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        # Three tensors of 300 boxes (prediction, target, gradient), 300 weights, the loss.
        ("aligned_giou", 300 * (3 * 4 + 1) + 1),
        # Boxes and the matrix, for the backward their gradients as well.
        ("pair_giou.ssd.f", 2 * (100 + 7) * 4 + 2 * 100 * 7),
        ("pair_giou.ssd.fb", 2 * (2 * (100 + 7) * 4 + 2 * 100 * 7)),
        # Logits twice and their gradient, class ids of eight bytes, the loss.
        ("dice_mc", 64 * 64 * (3 * 2 + 2) + 1),
    ],
)
def test_floor_counts_inputs_results_and_gradients(name, numbers, monkeypatch):
    workload = tiny(name)
    found = run(workload, contenders.plain(workload), monkeypatch)
    assert found[EAGER].floor_mb == pytest.approx(numbers * 4 / 1e6, rel=1e-9)
