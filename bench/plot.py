"""Bars of "times faster than eager" per workload, one panel per suite and size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.records import Record
from bench.workloads import SUITES, TERMS, WORKLOADS


def speedup(found: Sequence[Record], path: Path) -> None:
    """Writes a PNG, or nothing where nothing is compared with eager; ImportError without
    matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def panel(r: Record) -> tuple[str, str, str, str]:
        return r.suite, r.device, r.size, r.dtype

    compared = sorted((r for r in found if r.suite != TERMS), key=panel)
    if not compared:
        return
    members = (list(g) for _, g in itertools.groupby(compared, key=panel))
    groups = [report.fewest_threads(group) for group in members]
    rows = [len({r.workload for r in group}) for group in groups]
    figure = Figure(figsize=(8, 1.2 * len(groups) + 0.45 * sum(rows)), layout="constrained")
    axes = figure.subplots(len(groups), squeeze=False, height_ratios=rows)[:, 0]
    for axis, group in zip(axes, groups, strict=True):
        _draw(axis, group)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})


def _draw(axis: Any, group: Sequence[Record]) -> None:
    from matplotlib.ticker import ScalarFormatter

    names = {r.workload for r in group}
    order = [n for n in WORKLOADS if n in names] + sorted(names - set(WORKLOADS))
    series = report.speedups(group)
    height = 0.8 / max(len(series), 1)
    for i_series, (contender, ratios) in enumerate(series.items()):
        shown = [(i, ratios[name]) for i, name in enumerate(order) if name in ratios]
        places = [i + (i_series - (len(series) - 1) / 2) * height for i, _ in shown]
        # From 1, where eager stands: on a logarithmic axis there is no zero to begin at.
        widths = [ratio - 1 for _, ratio in shown]
        bars = axis.barh(places, widths, height, left=1.0, label=contender)
        axis.bar_label(bars, [f"{ratio:.1f}" for _, ratio in shown], padding=2, fontsize=7)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.margins(x=0.12, y=0.02)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set_yticks(range(len(order)), order)
    axis.invert_yaxis()
    axis.set_xlabel("times faster than eager PyTorch (log scale)")
    first = group[0]
    threads = f", {first.threads} threads" if first.threads > 1 else ""
    title = f"{SUITES[first.suite]}\n{first.device}, size {first.size}, {first.dtype}{threads}"
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=8)
