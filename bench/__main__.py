"""`python -m bench` measures; `python -m bench report` writes the README's tables and the plots
from the records."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import console, machine, ops_table, plot, records, report, runner, workloads
from bench.contenders import EAGER, FASTLOSS
from bench.machine import ROOT
from bench.records import Record
from bench.workload import Workload

RESULTS = ROOT / "bench" / "results"
_QUICK_ROUNDS = 3


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time and memory of fastloss against eager PyTorch and torch.compile; "
        "numbers are checked first.",
        epilog="`python -m bench report [--check]` regenerates the README's tables and the plots "
        "from the records.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--suite", choices=workloads.SUITES, help="default: all")
    parser.add_argument("--stem", help="only the workloads of this stem")
    parser.add_argument(
        "--workload", action="append", metavar="NAME", help="only this workload (repeatable)"
    )
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument(
        "--threads",
        type=_positive,
        default=1,
        help="CPU threads (default 1); with more, fastloss is compared with itself on one as well",
    )
    parser.add_argument("--rounds", type=_positive, help=f"default {runner.ROUNDS}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{_QUICK_ROUNDS} rounds without torch.compile; recorded only with --json",
    )
    parser.add_argument(
        "--cold-l2", action="store_true", help="on CUDA, overwrite the L2 cache before each call"
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="default bench/results/<device>/<suite>.jsonl"
    )
    parser.add_argument("--plot", type=Path, metavar="PATH", help="a PNG of this run's speed-ups")
    parser.add_argument(
        "--commit", metavar="HASH", help="what to record where this copy has no git history"
    )
    parser.add_argument("--list", action="store_true", help="list suites and workloads and stop")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _report_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench report",
        description="Writes the tables between the markers in the README, and a plot per device.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the README differs"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["report"]:
        return _report(_report_parser().parse_args(arguments[1:]))
    parser = _run_parser()
    options = parser.parse_args(arguments)
    if options.list:
        _list()
        return 0
    try:
        chosen = workloads.select(options.suite, options.stem, options.workload)
    except ValueError as reason:
        parser.error(str(reason))
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch finds no CUDA device")
    return _run(options, chosen)


def _list() -> None:
    rows = [
        [w.suite, w.name, w.stem, *("x".join(map(str, w.sizes[s])) for s in ("small", "large"))]
        + [w.reason]
        for w in workloads.WORKLOADS.values()
    ]
    console.print_table(
        "Workloads", ("suite", "workload", "stem", "small", "large", "what it is"), rows
    )


def _run(options: argparse.Namespace, chosen: Sequence[Workload]) -> int:
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else runner.ROUNDS)
    on = machine.inspect(options.device, options.threads)
    if options.commit is not None:
        on = dataclasses.replace(on, commit=options.commit)
    found: list[Record] = []
    together = workloads.together(chosen)
    total = sum(runner.units(group, rounds, not options.quick) for group in together)
    with console.listener(total) as listener:
        for group in together:
            fresh = runner.run_together(
                group,
                size=options.size,
                threads=options.threads,
                rounds=rounds,
                with_compile=not options.quick,
                cold_l2=options.cold_l2,
                on=on,
                listener=listener,
            )
            found += fresh
            path = options.json or RESULTS / on.slug / f"{group[0].suite}.jsonl"
            # After every group, so that an interrupted run keeps its part.
            if options.json is not None or not options.quick:
                records.save(path, fresh)
    _print(found, on)
    if options.plot is not None:
        _plot(found, options.plot)
    return 1 if any(_is_fatal(record) for record in found) else 0


def _is_fatal(record: Record) -> bool:
    """A wrong number always; a failure where neither a compiler nor a third party is to blame."""
    return record.status == records.WRONG or (
        record.status != records.OK and record.contender in (EAGER, FASTLOSS)
    )


def _print(found: Sequence[Record], on: machine.Machine) -> None:
    header = ("workload", "contender", "ms", "p20-p80", "x eager", "MB", "GB/s", "% floor", "error")
    title = f"{on.name}: {found[0].clock}, copy {on.copy_gbps:.1f} GB/s"
    console.print_table(title, header, [_cells(record) for record in found])
    for record in found:
        if record.status not in (records.OK, records.WRONG):
            print(f"{record.workload}, {record.contender}: {record.status}")


def _cells(record: Record) -> list[str]:
    number = report.number
    error = "-" if record.error is None else f"{record.error:.0e}"
    if record.status != records.OK:
        return [record.workload, record.contender, report.status_word(record), *["-"] * 5, error]
    return [
        record.workload,
        record.contender,
        number(record.median_ms),
        f"{number(record.p20_ms)}-{number(record.p80_ms)}",
        number(record.ratio),
        number(record.peak_mb),
        number(record.gbps),
        number(record.percent_floor),
        error,
    ]


def _report(options: argparse.Namespace) -> int:
    found = report.collect(options.results)
    if not options.readme.exists():
        print(f"{options.readme.name} does not exist: nothing to write the table into")
        return 2
    document = options.readme.read_text()
    table = report.markdown(record for folder in found.values() for record in folder)
    try:
        updated = report.splice(document, table)
        if ops_table.BEGIN in document:
            updated = report.splice(updated, ops_table.markdown(), ops_table.BEGIN, ops_table.END)
    except report.NoMarkersError as reason:
        print(f"{options.readme.name}: {reason}")
        return 2
    if options.check:
        if updated != document:
            print(f"{options.readme.name} differs from the records: run python -m bench report")
        return int(updated != document)
    options.readme.write_text(updated)
    for slug, folder in found.items():
        _plot(folder, options.results / slug / "speedup.png")
    return 0


def _plot(found: Sequence[Record], path: Path) -> None:
    try:
        plot.speedup(found, path)
    except ImportError as reason:
        print(f"no plot: {reason}")


if __name__ == "__main__":
    sys.exit(main())
