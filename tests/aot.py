"""Compile the Triton kernels ahead of time, without a GPU: python tests/aot.py

The launches of all samples are recorded with the kernels left out. Of each kernel, formula and
dtype a few specialisations are compiled that have between them every value of every compile-time
constant; all of them with --every. Exit status 1 if one does not compile; or if one on the main
path (contiguous operands, float32, float16, bfloat16) spills more than a register or does not load
and store vectors, see aot_code.py.
"""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from aot_cases import Case, cases, cover
from aot_code import Code, analyse
from aot_table import FILE, row_of, structure, table


def build(case: Case, target: int) -> Code:
    """Compile a case for a compute capability."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(case.types)
    source = ASTSource(
        fn=getattr(importlib.import_module(case.module), case.kernel),
        signature=case.types,
        constexprs={(names.index(n),): value for n, value in case.constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in case.aligned},
    )
    options = {"num_warps": case.num_warps, "enable_fp_fusion": False, "maxnreg": case.maxnreg}
    with contextlib.redirect_stdout(io.StringIO()) as log:  # where ptxas -v is printed
        compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    passed = [name for name in names if case.types[name] != "constexpr"]
    shared = compiled.metadata.shared
    return analyse(compiled.asm, log.getvalue(), shared, case.num_warps, passed)


def attempt(work: tuple[Case, int]) -> Code | str:
    """`build`, or what the compiler said."""
    try:
        return build(*work)
    except Exception as error:  # of any kind: that is what this looks for
        return f"does not compile: {type(error).__name__}: {error}"


def results(work: list[tuple[Case, int]]) -> Iterator[Code | str]:
    """The work, done by a process per core in an empty cache of Triton's."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ |= {"TRITON_CACHE_DIR": cache, "TRITON_DUMP_PTXAS_LOG": "1"}
        with multiprocessing.get_context("fork").Pool() as pool:
            yield from pool.imap(attempt, work)


def progress(items: Iterable[Any], total: int) -> Iterable[Any]:
    """A progress bar on a terminal that rich can draw on."""
    try:
        from rich.progress import track
    except ImportError:
        return items
    return track(items, "compiling", total) if sys.stdout.isatty() else items


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", type=int, default=[80, 90])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--every", action="store_true", help="compile every specialisation")
    chosen.add_argument("--most", type=int, help="compile at most that many, evenly chosen")
    chosen.add_argument("--table", action="store_true", help=f"write {FILE.name}")
    parser.add_argument("--kernel", default="", help="only kernels whose name has this in it")
    parser.add_argument(
        "--check", action="store_true", help=f"fail if kernels or formulas are not in {FILE.name}"
    )
    arguments = parser.parse_args()

    found = [case for case in cases() if arguments.kernel in case.kernel]
    covering = found if arguments.every else cover(found)
    work = [(case, target) for case in covering for target in arguments.targets]
    if arguments.most:
        work = work[:: -(-len(work) // arguments.most)]
    done: list[tuple[Case, int, Code]] = []
    failed = 0
    for (case, target), result in zip(work, progress(results(work), len(work))):
        wrong = [result] if isinstance(result, str) else result.wrong if case.main else []
        if wrong:
            failed += 1
            print(f"FAILED {case.name} sm_{target} {case.constants}: {', '.join(wrong)}")
        if case.main and isinstance(result, Code):
            done.append((case, target, result))
    print(f"{len(work)} of {len(arguments.targets) * len(found)} compiled, {failed} failed")
    if arguments.table:
        FILE.write_text(table(done, arguments.targets))
    if arguments.check:
        known, now = structure(FILE.read_text()), {row_of(case) for case in found if case.main}
        if known != now:
            failed += 1
            print(f"FAILED {FILE.name}, run --table: {sorted(known ^ now)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
