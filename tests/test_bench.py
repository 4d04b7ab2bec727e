"""The bench checks numbers before it times, keeps records that round-trip, and reports from the
records alone."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch

from bench import __main__ as cli
from bench import contenders, machine, memory, plot, records, report, runner, timing
from bench.baselines import box_loss as boxes
from bench.contenders import EAGER, FASTLOSS, Contender
from bench.machine import Machine
from bench.records import Record
from bench.timing import Timing
from bench.workloads import WORKLOADS, select

CPU = Machine(torch.device("cpu"), "a test CPU", "cpu-test", None, 1, 10.0, "0123456789ab")


def tiny(name):
    """The workload on a few rows, enough for every branch of its loss to occur."""
    workload = WORKLOADS[name]
    shape = {1: (300,), 2: (100, 8), 4: (1, 2, 64, 64)}[len(workload.sizes["small"])]
    return dataclasses.replace(workload, sizes={"small": shape})


def run(workload, loss, monkeypatch):
    """Records of eager and of `loss` in the place of fastloss."""
    monkeypatch.setattr(timing, "ROUND_MS", 0.0)
    builders = {
        EAGER: lambda: Contender(EAGER, "plain", contenders.plain(workload)),
        FASTLOSS: lambda: Contender(FASTLOSS, "test", loss),
    }
    found = runner.run_workload(workload, rounds=2, builders=builders, on=CPU)
    return {record.contender: record for record in found}


def a_record(**changes):
    blank = Record(
        suite="losses",
        stem="box_loss",
        workload="aligned_giou",
        contender=FASTLOSS,
        source="test",
        status=records.OK,
        size="small",
        shape=(10,),
        dtype="float32",
        threads=1,
        device="a test CPU",
        driver=None,
        clock="process CPU time",
        rounds=2,
        commit="0123456789ab",
        fastloss="0.1",
        torch="2.13.0",
        triton=None,
        date="2026-01-01",
        tolerance=1e-4,
        floor_mb=52.0,
    )
    return dataclasses.replace(blank, **changes)


def a_run():
    """Two workloads, three contenders: one compile failed, one fastloss result was wrong."""
    times = {"median_ms": 10.0, "peak_mb": 4.0, "percent_floor": 50.0, "ratio": 1.0}
    fast = {"median_ms": 2.0, "peak_mb": 1.0, "percent_floor": 90.0, "ratio": 5.0}
    return [
        a_record(contender=EAGER, **times),
        a_record(contender="compiled", **{**times, "median_ms": 4.0, "ratio": 2.5}),
        a_record(contender=FASTLOSS, best="compiled", ratio_best=2.0, **fast),
        a_record(workload="elem_l1", stem="regression_loss", contender=EAGER, **times),
        a_record(workload="elem_l1", contender="compiled", status="failed: no compiler"),
        a_record(workload="elem_l1", contender=FASTLOSS, status=records.WRONG, error=0.5),
    ]


@pytest.mark.parametrize("name", WORKLOADS)
def test_fastloss_and_baseline_agree(name, monkeypatch):
    workload = tiny(name)
    found = run(workload, contenders.ours(workload, CPU.device).loss, monkeypatch)
    for record in found.values():
        assert record.status == records.OK, f"{record.contender}: {record.status}, {record.error}"
        assert record.median_ms > 0 and record.peak_mb > 0
    assert found[EAGER].ratio == 1


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("iou", {"mode": "linear"}, 1 - 1 / 7),
        ("iou", {"mode": "square"}, 1 - 1 / 49),
        ("iou", {"mode": "log"}, math.log(7)),
        ("giou", {}, 1 - (1 / 7 - 2 / 9)),
        ("diou", {}, 1 - (1 / 7 - 2 / 18)),
        ("ciou", {}, 1 - (1 / 7 - 2 / 18)),  # equal aspect ratios: no angle term
    ],
)
def test_box_baseline_by_hand(kind, options, expected):
    # Two 2 x 2 boxes shifted by (1, 1): intersection 1, union 7, hull 9, squared diagonal 18,
    # squared distance 2.
    pred = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=torch.float64)
    loss = boxes.box_loss(
        pred, pred + 1, kind=kind, eps=1e-12, weight=None, avg_factor=1.0, **options
    )
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def _doubled(plain):
    return lambda *args, **kwargs: 2 * plain(*args, **kwargs)


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


@pytest.mark.parametrize(
    "spoil", [_doubled, _wrong_sign_of_gradient, _not_a_number, _gradient_not_a_number]
)
def test_wrong_numbers_are_not_timed(spoil, monkeypatch):
    workload = tiny("aligned_giou")
    found = run(workload, spoil(contenders.plain(workload)), monkeypatch)
    assert found[EAGER].status == records.OK
    assert found[FASTLOSS].status == records.WRONG
    assert found[FASTLOSS].median_ms is None and found[FASTLOSS].ratio is None


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


def _main_with(loss_of, monkeypatch, tmp_path, *more):
    """`python -m bench` on one tiny workload with this contender in the place of fastloss."""
    workload = tiny("elem_l1")
    monkeypatch.setitem(WORKLOADS, workload.name, workload)
    monkeypatch.setattr(machine, "inspect", lambda device, threads: CPU)
    monkeypatch.setattr(timing, "ROUND_MS", 0.0)
    monkeypatch.setattr(
        contenders,
        "ours",
        lambda workload, device: Contender(FASTLOSS, "test", loss_of(contenders.plain(workload))),
    )
    arguments = ["--workload", "elem_l1", "--quick", "--json", str(tmp_path / "r.jsonl"), *more]
    return cli.main(arguments)


def test_cli_prints_wrong_and_exits_1(monkeypatch, tmp_path, capsys):
    assert _main_with(_doubled, monkeypatch, tmp_path) == 1
    (line,) = [x for x in capsys.readouterr().out.splitlines() if " fastloss " in x]
    assert line.split()[2] == "WRONG"
    assert line.split()[3:8] == ["-"] * 5
    saved = {r.contender: r for r in records.load(tmp_path / "r.jsonl")}
    assert saved[FASTLOSS].status == records.WRONG and saved[FASTLOSS].median_ms is None


def test_cli_succeeds_and_plots(monkeypatch, tmp_path, capsys):
    image = tmp_path / "plot.png"
    assert (
        _main_with(
            lambda plain: plain, monkeypatch, tmp_path, "--plot", str(image), "--commit", "abc"
        )
        == 0
    )
    assert "WRONG" not in capsys.readouterr().out
    saved = records.load(tmp_path / "r.jsonl")
    assert {r.contender for r in saved} == {EAGER, FASTLOSS}
    assert {r.commit for r in saved} == {"abc"}
    assert image.read_bytes().startswith(b"\x89PNG")


def test_cli_fails_where_fastloss_fails(monkeypatch, tmp_path, capsys):
    def broken(plain):
        raise RuntimeError("cannot load /some/where/kernels.so\nmore")

    assert _main_with(broken, monkeypatch, tmp_path) == 1
    assert "failed: RuntimeError: cannot load ..." in capsys.readouterr().out


def test_a_failing_peer_is_recorded_and_not_fatal():
    assert not cli._is_fatal(a_record(contender="compiled", status="failed: no compiler"))
    assert cli._is_fatal(a_record(contender="compiled", status=records.WRONG))


def test_cli_names_an_unknown_workload(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--workload", "aligned_gious"])
    assert "no such workload here: aligned_gious" in capsys.readouterr().err


def test_select_narrows_in_table_order():
    names = [w.name for w in select("losses", names=["elem_mse", "aligned_iou"])]
    assert names == ["aligned_iou", "elem_mse"]
    assert {w.stem for w in select("losses", stem="sigmoid_focal")} == {"sigmoid_focal"}
    with pytest.raises(ValueError, match="stem 'nothing'"):
        select("losses", stem="nothing")


def test_records_round_trip(tmp_path):
    path = tmp_path / "device" / "losses.jsonl"
    records.save(path, a_run())
    assert records.load(path) == a_run()


def test_a_new_record_replaces_the_old_one_in_its_place(tmp_path):
    path = tmp_path / "losses.jsonl"
    records.save(path, a_run())
    newer = dataclasses.replace(a_run()[1], median_ms=3.0, commit="fedcba987654")
    other = dataclasses.replace(a_run()[1], threads=2)
    records.save(path, [newer, other])
    assert records.load(path) == [a_run()[0], newer, *a_run()[2:], other]


def test_ratio_is_the_median_of_ratios_within_a_round():
    base = Timing((10.0, 100.0, 30.0), (0.0,) * 3, 1)
    other = Timing((5.0, 10.0, 30.0), (0.0,) * 3, 1)
    assert timing.ratio(base, other) == 2.0  # of 2, 10 and 1; the ratio of the medians would be 3
    assert timing.ratio(base, base) == 1.0


def test_quantiles():
    times = Timing((4.0, 1.0, 2.0, 3.0, 5.0, 6.0), (0.0,) * 6, 1)
    assert (times.quantile(0.2), times.median(), times.quantile(0.8)) == (2.0, 3.5, 5.0)


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


def test_floor_counts_inputs_and_gradient(monkeypatch):
    workload = tiny("aligned_giou")
    found = run(workload, contenders.plain(workload), monkeypatch)
    # Three tensors of 300 boxes (prediction, target, gradient) and 300 weights.
    assert found[EAGER].floor_mb == pytest.approx(300 * (3 * 4 + 1) * 4 / 1e6)


def test_report_is_deterministic_and_shows_every_status():
    table = report.markdown(a_run())
    shuffled = a_run()
    random.Random(0).shuffle(shuffled)
    assert report.markdown(shuffled) == table
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    (giou,) = [row for row in rows if len(row) > 1 and row[1] == "aligned_giou"]
    assert giou[2:7] == ["10.0", "4.00 (compiled)", "2.00", "5.00", "2.00"]
    (l1,) = [row for row in rows if len(row) > 1 and row[1] == "elem_l1"]
    assert l1[4] == "WRONG"
    assert "- elem_l1, compiled: failed: no compiler" in table


def test_report_writes_checks_and_plots(tmp_path, capsys):
    results, readme = tmp_path / "results", tmp_path / "README.md"
    records.save(results / "cpu-test" / "losses.jsonl", a_run())
    arguments = ["report", "--readme", str(readme), "--results", str(results)]

    readme.write_text("# Title\n")
    assert cli.main(arguments) == 2
    assert "bench:begin" in capsys.readouterr().out

    readme.write_text(f"# Title\n{report.BEGIN}\nold\n{report.END}\nmore\n")
    assert cli.main([*arguments, "--check"]) == 1
    assert "old" in readme.read_text()
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("# Title\n") and text.endswith("\nmore\n") and "old" not in text
    first = (results / "cpu-test" / "speedup.png").read_bytes()
    plot.speedup(records.load(results / "cpu-test" / "losses.jsonl"), tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == first


def test_quick_compare(monkeypatch):
    monkeypatch.setitem(WORKLOADS, "aligned_giou", tiny("aligned_giou"))
    monkeypatch.setattr(machine, "inspect", lambda device, threads: CPU)
    (row,) = runner.quick_compare(["aligned_giou"], rounds=1)
    assert row.name == "aligned_giou"
    assert min(row.eager_ms, row.fastloss_ms, row.ratio, row.eager_mb, row.fastloss_mb) > 0
