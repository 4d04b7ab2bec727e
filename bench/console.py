"""Progress and tables: with rich where it is installed, plain text otherwise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

try:
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError:
    Console = None


class Listener:
    """What a run tells about itself; this one keeps silent."""

    def status(self, text: str) -> None:
        """The run begins something that may take a while."""

    def advance(self) -> None:
        """One of the announced units of work is done."""


class _Plain(Listener):
    def status(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Rich(Listener):
    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=total)

    def status(self, text: str) -> None:
        self.progress.update(self.task, description=text, refresh=True)

    def advance(self) -> None:
        self.progress.update(self.task, advance=1, refresh=True)


@contextlib.contextmanager
def listener(total: int) -> Iterator[Listener]:
    """A progress bar over `total` units; lines on stderr where that is not a terminal, or rich is
    missing."""
    if Console is None or not sys.stderr.isatty():
        yield _Plain()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # A thread that redraws the bar would add its own CPU time to what is measured.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as progress:
        yield _Rich(progress, total)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first two columns to the left, numbers to the right; plain text where it does not fit."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    fits = Console is not None and Console().width >= sum(widths) + 2 * len(widths) + 2
    if fits and sys.stdout.isatty():
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i_column, name in enumerate(header):
            table.add_column(name, justify="left" if i_column < 2 else "right")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    print(title)
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if i_column < 2 else cell.rjust(width)
            for i_column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
