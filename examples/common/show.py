"""Tables and progress on the terminal: with rich where it is installed, plain text otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

try:
    import rich.console
    import rich.progress
    import rich.table
except ImportError:
    rich = None

_PLAIN_EVERY = 20  # steps between two progress lines without rich


class Bar(Protocol):
    def __call__(self, note: str) -> None:
        """One step done; `note` says what it was."""


@contextmanager
def progress(title: str, steps: int) -> Iterator[Bar]:
    """A bar that moves by one at each call."""
    if rich is None:
        done = 0

        def plain(note: str) -> None:
            nonlocal done
            done += 1
            if done % _PLAIN_EVERY == 0 or done == steps:
                print(f"{title} {done}/{steps}  {note}", flush=True)

        yield plain
        return
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
    )
    with rich.progress.Progress(*columns) as bar:
        task = bar.add_task(title, total=steps, note="")
        yield lambda note: bar.update(task, advance=1, note=note)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column is text, the others are figures."""
    if rich is None:
        _plain_table(title, header, rows)
        return
    grid = rich.table.Table(title=title, title_justify="left", title_style="bold")
    grid.add_column(header[0])
    for name in header[1:]:
        grid.add_column(name, justify="right")
    for row in rows:
        grid.add_row(*row)
    console = rich.console.Console()
    if not console.is_terminal:
        # A file or a pipe has no width of its own; 80 columns would fold the figures.
        console.width = 120
    console.print(grid)


def _plain_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    print(title)
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells))
