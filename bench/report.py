"""The README's tables and the plots, from the records alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import records, segmentation
from bench.contenders import COMPILED, EAGER, FASTLOSS
from bench.records import Record
from bench.workloads import SUITES, TERMS, WORKLOADS

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

_HEADER = (
    "workload",
    "eager ms",
    "best other ms",
    "fastloss ms",
    "x eager",
    "x best other",
    "MB eager",
    "MB best other",
    "MB fastloss",
    "% of copy floor",
)
_EXPLANATION = (
    "Median over alternating rounds in one process; ratios are medians of the ratios within a "
    'round. MB: peak memory beyond the inputs, results and gradients included. "Best other": the '
    "fastest correct result that is not fastloss. Copy floor: inputs read once (logits of label "
    "maps twice), results and gradients written once, at this machine's own copy speed. More "
    "threads: fastloss's wall time on one over that on so many, in the same rounds."
)


class NoMarkersError(Exception):
    """The document has no place for the table."""


def collect(results: Path) -> dict[str, list[Record]]:
    """Device folder to its records, both in a fixed order."""
    return {
        folder.name: [r for file in sorted(folder.glob("*.jsonl")) for r in records.load(file)]
        for folder in sorted(results.iterdir() if results.is_dir() else ())
        if folder.is_dir() and any(folder.glob("*.jsonl"))
    }


def markdown(found: Iterable[Record]) -> str:
    """One table per suite, device, size and dtype."""
    order = {name: i for i, name in enumerate(WORKLOADS)}

    def group(r: Record) -> tuple[str, str, str, str]:
        return r.suite, r.device, r.size, r.dtype

    def place(r: Record) -> tuple[int, str, str]:
        return order.get(r.workload, len(order)), r.workload, r.contender

    ordered = sorted(found, key=lambda r: (*group(r), *place(r)))
    blocks = [_table(list(members)) for _, members in itertools.groupby(ordered, key=group)]
    return "\n\n".join([*blocks, _EXPLANATION]) if blocks else "No records yet."


def fewest_threads(found: Sequence[Record]) -> list[Record]:
    """The records that tables and plots show; those of more threads add a column."""
    fewest = min(r.threads for r in found)
    return [r for r in found if r.threads == fewest]


def _table(found: Sequence[Record]) -> str:
    """Title, conditions, rows and failures."""
    group = fewest_threads(found)
    first = group[0]
    lines = [f"**{SUITES[first.suite]}**", ""]
    lines += [f"{first.device}, size {first.size}, {first.dtype}, {_conditions(group)}", ""]
    header, rows = _further_terms(group) if first.suite == TERMS else _comparison(group, found)
    lines += ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    failed = [r for r in group if r.status not in (records.OK, records.WRONG)]
    failures = [f"- {r.workload}, {r.contender}: {r.status}" for r in failed]
    return "\n".join([*lines, *(["", *failures] if failures else [])])


Table = tuple[Sequence[str], list[list[str]]]  # header and rows


def _further_terms(group: Sequence[Record]) -> Table:
    """What each term costs that joins the others, which were timed in the same rounds."""
    times = {r.workload: r.median_ms for r in group}
    whole = times.get(segmentation.ALL)
    rows = []
    for term in segmentation.TERMS:
        alone, others = (times.get(f(term)) for f in (segmentation.alone, segmentation.without))
        complete = None not in (whole, alone, others)
        added = whole - others if complete else None
        share = 100 * added / alone if complete else None
        rows.append([term, *map(number, (alone, others, whole, added, share))])
    header = ("term", "alone ms", "the others ms", "all ms", "added ms", "added, % of alone")
    return header, rows


def _comparison(group: Sequence[Record], found: Sequence[Record]) -> Table:
    """A row per workload; what ran on more threads adds columns."""
    more = sorted({r.threads for r in found} - {group[0].threads})
    scaling = {(r.workload, r.threads): r.scaling for r in found if r.contender == FASTLOSS}
    rows = [
        _row(name, {r.contender: r for r in members})
        + [number(scaling.get((name, count))) for count in more]
        for name, members in itertools.groupby(group, key=lambda r: r.workload)
    ]
    return (*_HEADER, *(f"x at {count} threads" for count in more)), rows


def _conditions(group: Sequence[Record]) -> str:
    """Clock, threads, versions, commits and dates of a group; all values where they differ."""

    def every(name: str) -> str:
        values = sorted({str(getattr(r, name)) for r in group if getattr(r, name) is not None})
        return ", ".join(values)

    parts = [every("clock")]
    if "CUDA" not in parts[0]:
        parts.append(f"threads: {every('threads')}")
    parts += [f"{name} {every(name)}" for name in ("torch", "triton", "driver") if every(name)]
    parts += sorted({r.source for r in group if r.contender == FASTLOSS and r.source})
    return "; ".join([*parts, f"commit {every('commit')}", every("date")])


def _row(name: str, table: dict[str, Record]) -> list[str]:
    eager, own = table.get(EAGER), table.get(FASTLOSS)
    others = [r for r in table.values() if r.contender != FASTLOSS and r.status == records.OK]
    best = min(others, key=lambda r: r.median_ms, default=None)
    best_ms = f"{number(best.median_ms)} ({best.contender})" if best else "-"
    return [
        name,
        _time(eager),
        best_ms,
        _time(own),
        number(own.ratio if own else None),
        number(own.ratio_best if own else None),
        number(eager.peak_mb if eager else None),
        number(best.peak_mb if best else None),
        number(own.peak_mb if own else None),
        number(own.percent_floor if own else None),
    ]


def _time(record: Record | None) -> str:
    if record is None:
        return "-"
    return number(record.median_ms) if record.status == records.OK else status_word(record)


def status_word(record: Record) -> str:
    return record.status.split(":")[0]


def number(value: float | None) -> str:
    """Three significant digits at most, without an exponent."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def splice(document: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """The document with what stands between the markers replaced."""
    head, found_begin, rest = document.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise NoMarkersError(f"the document lacks the lines {begin} and {end}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def speedups(found: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Contender to {workload: times faster than eager}, for the plot."""
    table: dict[str, dict[str, float]] = {}
    for record in found:
        if record.status == records.OK and record.contender != EAGER and record.ratio is not None:
            table.setdefault(record.contender, {})[record.workload] = record.ratio
    first = (COMPILED,) if COMPILED in table else ()
    last = (FASTLOSS,) if FASTLOSS in table else ()
    middle = sorted(set(table) - {COMPILED, FASTLOSS})
    return {name: table[name] for name in (*first, *middle, *last)}
