"""Each function marked FASTLOSS_SIMD has full vectors in its inner loop, for each instruction set.

A loop that does not vectorise still gives the right numbers, at an eighth of the speed.
"""

import json
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_code import CLONES, Function, functions, marked

import fastloss

BINARY = Path(fastloss.__file__).with_name("_C.so")
SOURCES = Path(__file__).resolve().parents[2] / "csrc"
# Double precision calls the C library for these, one element at a time: the polynomials of
# common/math.h are for float, which is what training uses.
SCALAR_IN_DOUBLE = {"atan", "exp", "expm1", "log", "log1p"}
# These add integers, compare and move numbers; the check counts floating-point arithmetic.
WITHOUT_ARITHMETIC = {
    "are_tame", "bins_of", "clear_ignored", "convert_row", "count_up_to", "flags_of",
    "gather_lanes", "has_mass", "keys_of", "label_row", "load_rows", "look_up", "mark",
    "mark_between", "mark_chosen", "mark_others", "merge_sets", "nonzeros", "pick", "pick_sides",
    "roles_of", "set_bits", "slots_of", "transpose_back", "transpose_lines", "transpose_rows_in",
    "transpose_rows_out",
}  # fmt: skip


@pytest.fixture(scope="module")
def code() -> list[Function]:
    if platform.machine() != "x86_64" or not BINARY.exists():
        pytest.skip("there are no C++ kernels for x86-64 here")
    compiler = json.loads(BINARY.with_name("_build_info.json").read_text())["compiler"]
    if "clang" in compiler:
        pytest.skip(f"the symbols are those of GCC, the kernels are built with {compiler}")
    if not shutil.which("objdump"):
        pytest.skip("objdump is not installed (binutils)")
    return functions(BINARY)


def named(code: list[Function], name: str) -> list[Function]:
    return [f for f in code if re.search(rf"\b{name}[<(]", f.name) and "[clone ." in f.name]


def complaint(function: Function) -> str:
    """What is wrong with the loops of a clone, or "". The scalar loop for the last few elements is
    about as long as the vector loop; a much longer one is another, which did not vectorise."""
    if f"[clone .{function.clone}" in function.same_as:
        return ""
    if "double" in function.name and function.calls() & SCALAR_IN_DOUBLE:
        return ""
    loops = function.loops()
    vector = max((loop[CLONES[function.clone]] for loop in loops), default=0)
    scalar = max((loop["scalar"] for loop in loops), default=0)
    if vector and scalar <= 4 * vector:
        return ""
    return f"{function.name}: {vector} vector operations in its longest loop, {scalar} scalar ones"


def complaints(code: list[Function]) -> Iterator[str]:
    for name in sorted(marked(SOURCES) - WITHOUT_ARITHMETIC):
        for clone in CLONES:
            found = [f for f in named(code, name) if f.clone == clone and ".cold" not in f.name]
            if not found:
                yield f"{name} has no version for {clone}: is it marked, and compiled by GCC?"
            yield from filter(None, map(complaint, found))


def test_inner_loops_are_vectorised(code):
    assert marked(SOURCES)
    found = list(complaints(code))
    assert not found, (
        "These loops did not vectorise. Look for a branch, a call, aliasing (__restrict, "
        "`#pragma GCC ivdep`) or a reduction without `#pragma omp simd`; g++ gives its reason with "
        "-fopt-info-vec-missed.\n" + "\n".join(found)
    )


def test_no_fused_multiply_add_where_bits_are_compared(code):
    """With one, the two passes of `iou_match`, and PyTorch, could differ in the last bit."""
    exact = ("iou_match_best", "iou_match_equal", "split_and_clear")
    found = [f for name in exact for f in named(code, name)]
    assert {f.clone for f in found} >= {*CLONES}

    def fused(functions: list[Function]) -> list[str]:
        names = ((f.name, name) for f in functions for _, name, _ in f.code)
        return [f"{f}: {name}" for f, name in names if re.match(r"vfn?m(add|sub)", name)]

    assert fused(code) and not fused(found)


def test_other_code_runs_on_any_x86_64(code):
    assert any(f.uses_avx() for f in code if f.clone)
    assert not [f.name for f in code if f.uses_avx() and not f.clone]
