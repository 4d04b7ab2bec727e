"""The command line, records that round-trip, and reports from the records alone."""

from __future__ import annotations

import dataclasses
import random

import pytest
from bench_cases import CPU, a_record, a_run, doubled, tiny

from bench import __main__ as cli
from bench import contenders, machine, plot, records, report, runner, segmentation, timing
from bench.contenders import EAGER, FASTLOSS, Contender
from bench.workloads import SUITES, TERMS, WORKLOADS, select, together


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
    assert _main_with(doubled, monkeypatch, tmp_path) == 1
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


def test_cli_keeps_a_file_per_suite(monkeypatch, tmp_path):
    names = ["elem_l1", "pair_iou.ssd.f"]
    for name in names:
        monkeypatch.setitem(WORKLOADS, name, tiny(name))
    monkeypatch.setattr(cli, "RESULTS", tmp_path)
    monkeypatch.setattr(machine, "inspect", lambda device, threads: CPU)
    monkeypatch.setattr(timing, "ROUND_MS", 0.0)
    monkeypatch.setattr(contenders, "compiled", contenders.eager)
    assert cli.main(["--workload", names[0], "--workload", names[1], "--rounds", "1"]) == 0
    for name, suite in zip(names, ("losses", "pairwise"), strict=True):
        assert {r.workload for r in records.load(tmp_path / CPU.slug / f"{suite}.jsonl")} == {name}


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
    assert {w.suite for w in select()} == set(SUITES)
    with pytest.raises(ValueError, match="in suite 'losses' with stem 'nothing'"):
        select("losses", stem="nothing")


def test_terms_are_timed_in_the_same_rounds():
    groups = together(select())
    assert [len(group) for group in groups if len(group) > 1] == [1 + 2 * len(segmentation.TERMS)]
    assert {w.name for w in sum(groups, [])} == set(WORKLOADS)


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


def test_report_has_a_table_per_suite_and_a_column_per_number_of_threads():
    name = "pair_giou.ssd.f"
    matrix = {"suite": "pairwise", "stem": "pairwise_iou", "workload": name, "ratio": 9.0}
    ours = a_record(**matrix, median_ms=4.0)
    two = dataclasses.replace(ours, threads=2, clock="wall", median_ms=2.5, scaling=1.6)
    eager = dataclasses.replace(two, contender=EAGER, median_ms=77.0, scaling=None)
    table = report.markdown([*a_run(), two, eager, ours])
    losses, pairs = table.split(f"**{SUITES['losses']}**")[1].split(f"**{SUITES['pairwise']}**")
    assert "aligned_giou" in losses and "threads |" not in losses
    (row,) = [line for line in pairs.splitlines() if line.startswith(f"| {name}")]
    cells = [cell.strip() for cell in row.split("|")]
    assert (cells[4], cells[-2]) == ("4.00", "1.60")
    assert "x at 2 threads |" in pairs and "77.0" not in table and "threads: 1;" in pairs


def test_report_derives_what_a_further_term_costs(tmp_path):
    times = {segmentation.ALL: 10.0}
    times |= {segmentation.alone(term): 4.0 for term in segmentation.TERMS}
    times |= {segmentation.without(term): 9.0 for term in segmentation.TERMS}
    del times[segmentation.without("dice")]
    found = [a_record(suite=TERMS, workload=name, median_ms=ms) for name, ms in times.items()]
    table = report.markdown(found)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert ["sigmoid_focal", "4.00", "9.00", "10.0", "1.00", "25.0"] in rows
    assert ["dice", "4.00", "-", "10.0", "-", "-"] in rows
    plot.speedup(found, tmp_path / "plot.png")  # they have no place in a plot
    assert not (tmp_path / "plot.png").exists()
    plot.speedup([*a_run(), *found], tmp_path / "plot.png")
    plot.speedup(a_run(), tmp_path / "same.png")
    assert (tmp_path / "plot.png").read_bytes() == (tmp_path / "same.png").read_bytes()


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
