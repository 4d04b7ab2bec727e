"""Tables and progress: with rich on a terminal where it is installed, plain text otherwise."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

try:
    import rich.console
    import rich.markup
    import rich.progress
    import rich.table
except ImportError:
    rich = None


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; without rich, columns padded to their widest cell."""
    if rich is not None and sys.stdout.isatty():
        table = rich.table.Table(title=title, title_justify="left", show_header=any(header))
        for name in header:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*map(rich.markup.escape, row))
        rich.console.Console().print(table)
        return
    print(title)
    shown = [header, *rows] if any(header) else rows
    widths = [max(map(len, column)) for column in zip(*shown)]
    for row in shown:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A function to call before each of `total` steps with what they do; without a terminal or
    rich, a line on stderr when that changes."""
    if rich is None or not sys.stderr.isatty():
        told = set()

        def tell(text: str) -> None:
            if text not in told:
                told.add(text)
                print(f"{text} ...", file=sys.stderr, flush=True)

        yield tell
        return
    columns = (
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("{task.description}"),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        *columns, console=console, transient=True, redirect_stdout=False
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda text: bar.update(task, advance=1, description=text)
