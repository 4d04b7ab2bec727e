"""The README's table of ops: which implementations each has and how far each was proved."""

from __future__ import annotations

from pathlib import Path

from fastloss._library import OPS, gpu_runs

BEGIN, END = "<!-- ops:begin -->", "<!-- ops:end -->"
CPU_SOURCES = Path(__file__).resolve().parents[1] / "csrc" / "cpu"
CUDA_SOURCES = CPU_SOURCES.parent / "cuda"


def _defines(folder: Path, name: str) -> bool:
    """Whether a source in the folder registers a kernel for op `name`."""
    return any(f'm.impl("{name}"' in path.read_text() for path in sorted(folder.glob("*.c*")))


def markdown() -> str:
    """One row per op. What the columns rest on stands below the table."""
    runs = gpu_runs()
    lines = [
        "| op | reference | C++ | Triton: interpreter | Triton: compiled | CUDA C++ | GPU run |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, op in OPS.items():
        run = runs.get(name)
        triton = "triton" in op.implementations
        cells = (
            f"`{name}`",
            "yes",
            "yes" if _defines(CPU_SOURCES, name) else "-",
            "yes" if triton else "-",
            "sm_80, sm_90" if triton else "-",
            "yes" if _defines(CUDA_SOURCES, name) else "-",
            f"{run['gpu']} at {run['commit']}" if run else "never",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            "Interpreter: `tests/test_values.py`. Compiled: `tests/test_triton_compile.py`, "
            "without a GPU. GPU run: `make gpu-check`.",
        ]
    )
