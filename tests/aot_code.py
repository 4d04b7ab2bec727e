"""What the compiled code of a kernel does: registers, spills, the width of its loads and stores.

An access to consecutive elements of an argument should move as many bytes at once as a lane has of
them together, 16 at most; the code is scalar where that is not so. Two kinds of access are left
out: those to a single element, and gathers, whose indices come out of a division or a load (the
class index of the row that an element is in). Rows whose length is not known to be a multiple of 16
start anywhere, so elements in them may be moved one by one. So may the last, partial block of an
argument: as many bytes as are moved at full width, no more.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

# Bytes spilled, stored and loaded: ptxas gives up one register where that lets more programs run at
# a time; without that limit the same code needs no spill.
ONE_REGISTER = 8
WIDEST = 16  # bytes that a lane can load or store at once
GATHERS = ("divsi", "divui", "remsi", "remui", "select", "load")
QUOTIENTS = ("scalar divsi", "scalar remsi")
ACCESS = re.compile(r"tt\.(load|store) (%[\w#]+).* tensor<([\dx]+)x!tt\.ptr<[a-z]+(\d+)>")

Definitions = dict[str, tuple[str, list[str]]]  # value -> operation, operands


@dataclass(frozen=True)
class Code:
    registers: int
    spilled: int  # bytes
    shared: int  # bytes
    widths: dict[str, tuple[int, ...]]  # "load", "store" -> bytes at once, of each argument
    wrong: tuple[str, ...]  # spills, and accesses that are narrower than they could be


def _origin(value: str, definitions: Definitions) -> set[str]:
    """The value and all values that it is computed from."""
    seen, stack = {value}, [value]
    while stack:
        operands = definitions.get(stack.pop(), ("", []))[1]
        stack += set(operands) - seen
        seen.update(operands)
    return seen


def _intended(ttir: str, lanes: int) -> Iterator[tuple[str, int, int]]:
    """("load" or "store", position of the argument, bytes that a lane has together)."""
    arguments: list[str] = []
    pointers: set[str] = set()
    lengths: set[str] = set()  # integers of which nothing is known
    definitions: Definitions = {}
    for line in ttir.splitlines():
        if "tt.func" in line:
            arguments = re.findall(r"(%\w+): ", line)
            pointers = set(re.findall(r"(%\w+): !tt\.ptr", line))
            lengths = set(re.findall(r"(%\w+): i\d+(?! \{)", line))
            continue
        line = line.split(" loc(")[0]
        if "scf.for" in line:  # an address that a loop moves on has the form of its first one
            carried = re.findall(r"(%\w+) = (%[\w#]+)", line.partition("scf.for")[2])
            definitions |= {name: ("", [start]) for name, start in carried}
        elif found := re.match(r'\s*(%\w+) = "?(?:\w+\.)?(\w+)"?(.*)', line):
            name, operation, rest = found.groups()
            scalar = "" if "tensor<" in rest else "scalar "
            definitions[name] = (scalar + operation, re.findall(r"%[\w#]+", rest))
        found = ACCESS.search(line)
        if found is None:
            continue
        kind, pointer, shape, bits = found.groups()
        origin = _origin(pointer, definitions)
        factors = {v: d for v, d in definitions.items() if d[0] not in QUOTIENTS}
        operations = {value: definitions.get(value, ("", []))[0] for value in origin}
        if not set(operations.values()).isdisjoint(GATHERS):
            continue
        (argument,) = origin & pointers
        sizes = [int(size) for size in shape.split("x")]
        together = min(sizes[-1], max(1, math.prod(sizes) // lanes))
        products = [value for value, operation in operations.items() if operation[-4:] == "muli"]
        if any(_origin(value, factors) & lengths for value in products):
            together = 1
        yield kind, arguments.index(argument), min(WIDEST, together * int(bits) // 8)


def _accesses(ptx: str) -> Iterator[tuple[str, int, int]]:
    """("load" or "store", position of the argument, bytes at once) of each global access."""
    entry = ptx.partition(".entry")[2].partition("{")[0]
    pointers = set(re.findall(r"\.param [^,)]*\.ptr[^,)]*(_param_\d+)", entry))
    definitions: Definitions = {}
    for line in ptx.splitlines():
        found = re.match(r"\s*(?:@!?%p\d+ )?(\w[\w.:]*)\s+(%\w+),(.*);", line)
        if found and not found[1].startswith(("ld.global", "ld.shared", "st", "setp")):
            _, name, rest = found.groups()
            operands = re.findall(r"%\w+|_param_\d+(?=])", rest)
            definitions[name] = ("", definitions.get(name, ("", []))[1] + operands)
    for kind, form, address in re.findall(r"\b(ld|st)\.global([\w.:]*)\s[^;]*?\[\s*(%\w+)", ptx):
        vector, bits = re.search(r"(?:\.v(\d))?\.\w(\d+)$", form).groups()
        for start in _origin(address, definitions) & pointers:
            yield (
                {"ld": "load", "st": "store"}[kind],
                int(start.removeprefix("_param_")),
                int(vector or 1) * int(bits) // 8,
            )


def analyse(asm: dict[str, str], log: str, shared: int, num_warps: int, names: list[str]) -> Code:
    """The code of one compiled kernel; `log` is what ptxas said, `names` are the arguments that
    were passed."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    if registers is None or not spills:
        raise ValueError(f"no registers and spills in what ptxas printed: {log!r}")
    spilled = sum(map(int, spills))
    wrong = [f"{spilled} bytes spilled"] if spilled > ONE_REGISTER else []
    intended: dict[tuple[str, int], int] = {}
    for kind, argument, together in _intended(asm["ttir"], 32 * num_warps):
        intended[kind, argument] = max(together, intended.get((kind, argument), 0))
    if not intended:
        wrong.append("no access to consecutive elements was recognised")
    accesses = list(_accesses(asm["ptx"]))
    widths: dict[str, tuple[int, ...]] = {"load": (), "store": ()}
    for (kind, argument), together in intended.items():
        moved = [b for k, a, b in accesses if (k, a) == (kind, argument)]
        wide = sum(b for b in moved if b >= together)
        widths[kind] += (max(moved, default=0),)
        if not moved or wide < sum(moved) - wide:
            wrong.append(
                f"{kind} of {names[argument]}: {min(moved, default=0)} of {together} bytes"
            )
    return Code(int(registers[1]), spilled, shared, widths, tuple(wrong))
