"""What the compiler made of the functions marked FASTLOSS_SIMD, read from a shared object."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# The instruction sets of FASTLOSS_SIMD, as they are called in symbols, and their widest registers.
CLONES = {"arch_x86_64_v4": "zmm", "arch_x86_64_v3": "ymm"}
_ARITHMETIC = re.compile(r"v?(?:add|sub|mul|div|min|max|sqrt|cmp\w*|fn?m(?:add|sub)\d*)([ps])[sd]")
_MARKED = re.compile(r"FASTLOSS_SIMD\s[^;{}]*?(\w+)\(")


@dataclass
class Function:
    """A function's machine code: (address, mnemonic, operands)."""

    name: str
    code: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def clone(self) -> str:
        """The instruction set it was made for, or "" for every x86-64 processor."""
        return next((clone for clone in CLONES if f"[clone .{clone}" in self.name), "")

    @property
    def same_as(self) -> str:
        """The function into which the compiler folded this one, or ""."""
        _, name, operands = self.code[0]
        match = re.search(r"<(.*)>$", operands)
        return match[1] if name == "jmp" and match else ""

    def calls(self) -> set[str]:
        """Names of the library functions that it calls."""
        found = (re.search(r"<(\w+)@plt>", ops) for _, name, ops in self.code if name == "call")
        return {match[1] for match in found if match}

    def uses_avx(self) -> bool:
        """Whether a processor without AVX would stop at it."""
        return any(name.startswith("v") for _, name, _ in self.code)

    def loops(self) -> list[Counter]:
        """Of each innermost loop the arithmetic by kind: "zmm", "ymm", "xmm", or "scalar"."""
        spans = []
        for address, name, operands in self.code:
            # Code that was moved out of the way returns by an unconditional jump.
            conditional = name.startswith("j") and name != "jmp"
            target = re.match(r"([0-9a-f]+) ", operands) if conditional else None
            if target and self.code[0][0] <= int(target[1], 16) <= address:
                spans.append((int(target[1], 16), address))
        holds_another = {
            a for a in spans for b in spans if a != b and a[0] <= b[0] and b[1] <= a[1]
        }
        found = [self._arithmetic(*span) for span in spans if span not in holds_another]
        # Short loops may be unrolled to their end; then the whole function is one.
        return found if any(found) else [self._arithmetic(self.code[0][0], self.code[-1][0])]

    def _arithmetic(self, first: int, last: int) -> Counter:
        kinds: Counter = Counter()
        for address, name, operands in self.code:
            if first <= address <= last and (match := _ARITHMETIC.fullmatch(name)):
                register = re.search(r"[xyz]mm", operands)
                kinds[register[0] if match[1] == "p" and register else "scalar"] += 1
        return kinds


def functions(binary: Path) -> list[Function]:
    """All functions of a shared object, names demangled."""
    argv = ["objdump", "-d", "-C", "--no-show-raw-insn", str(binary)]
    text = subprocess.run(argv, capture_output=True, check=True, text=True).stdout
    found: list[Function] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            found.append(Function(match[1]))
        elif found and (match := re.fullmatch(r"\s*([0-9a-f]+):\t(\S+)\s*(.*)", line)):
            found[-1].code.append((int(match[1], 16), match[2], match[3]))
    return found


def marked(folder: Path) -> set[str]:
    """The names of the functions marked FASTLOSS_SIMD in the sources."""
    names: set[str] = set()
    for source in (*folder.rglob("*.h"), *folder.rglob("*.cpp")):
        lines = source.read_text().splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith(("#", "//")))
        names |= set(_MARKED.findall(text))
    return names
