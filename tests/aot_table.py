"""The table of the compiled kernels, in Markdown."""

from pathlib import Path

import triton
from aot_cases import DTYPES, TYPES, Case
from aot_code import Code

FILE = Path(__file__).parents[1] / "triton_kernels" / "kernels.md"
HEAD = f"""# Compiled kernels

Written by `python tests/aot.py --table` with Triton {triton.__version__}; do not edit.
These are properties of the machine code, not measurements; no GPU is involved.

A row is a kernel and the options that choose its formula, with contiguous operands. *Sizes* are
those that the code is compiled for: any, or separately multiples of 16 and odd ones. Under a dtype
and a target stand registers per thread and bytes of shared memory per program, the most of all
forms of the call (weighted or not, reduced or not, which gradients). *Loads* and *stores* are the
bytes that one instruction moves for a lane, each width that occurs: 16, or less where the
consecutive elements of a lane are fewer. *Spilled* are bytes stored and loaded because registers
ran out. *Wrong* are more of those than one register, and narrower accesses; `python tests/aot.py`
fails where anything stands there.
"""
MAIN = [TYPES[dtype] for dtype in DTYPES if TYPES[dtype] != "fp64"]


def row_of(case: Case) -> tuple[str, str, str]:
    """The first cells of the row that a case on the main path belongs to."""
    return case.kernel, case.label or "–", case.sizes


def structure(text: str) -> set[tuple[str, ...]]:
    """The first cells of the rows of a table."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return {tuple(c.strip(" `") for c in line.split("|")[1:4]) for line in lines}


def _cell(codes: list[Code]) -> str:
    if not codes:
        return "–"
    return f"{max(c.registers for c in codes)} / {max(c.shared for c in codes)}"


def _widths(codes: list[Code], kind: str) -> str:
    return " ".join(map(str, sorted({w for c in codes for w in c.widths[kind]}))) or "–"


def table(results: list[tuple[Case, int, Code]], targets: list[int]) -> str:
    """`results` are (case, target, code) of the cases on the main path."""
    columns = [(dtype, target) for dtype in MAIN for target in targets]
    heads = [f"{dtype} sm_{target}" for dtype, target in columns]
    titles = ["kernel", "formula", "sizes", *heads, "loads", "stores", "spilled", "wrong"]
    lines = [titles, ["---"] * len(titles)]
    for row in sorted({row_of(case) for case, _, _ in results}):
        mine = [(c, t, code) for c, t, code in results if row_of(c) == row]
        codes = [code for _, _, code in mine]
        cells = [
            _cell([code for c, t, code in mine if (c.dtype, t) == column]) for column in columns
        ]
        wrong = sorted({text for code in codes for text in code.wrong}) or ["–"]
        widths = [_widths(codes, kind) for kind in ("load", "store")]
        spilled = str(max(code.spilled for code in codes))
        lines.append([f"`{row[0]}`", *row[1:], *cells, *widths, spilled, ", ".join(wrong)])
    return HEAD + "\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
