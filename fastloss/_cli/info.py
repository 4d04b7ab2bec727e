"""`python -m fastloss info`: what was built, what was loaded, and what therefore runs."""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from .. import _library
from .._version import __version__
from .console import print_table

# What the levels of the x86-64 psABI add, as Linux names it; the C++ kernels hold a copy for each.
_V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_PARTS = {
    "cpp": "C++ kernels (_C.so)",
    "cuda": "CUDA kernels (_C_cuda.so)",
    "triton": "Triton kernels",
}


def _cpu() -> str:
    """Model of the CPU, and its level, which decides the copy of the C++ kernels that runs."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    model, machine = fields.get("model name", "unknown model"), platform.machine()
    if machine != "x86_64":
        return f"{model}, {machine}"
    flags = set(fields.get("flags", "").split())
    level = "x86-64-v4" if flags >= _V4 else "x86-64-v3" if flags >= _V3 else "x86-64 baseline"
    return f"{model}, {level} (the C++ kernels are compiled for v4, v3 and baseline)"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    names = [f"{p.name} (sm_{p.major}{p.minor}, {p.total_memory >> 30} GiB)" for p in properties]
    return ", ".join(names)


def _driver() -> str:
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0] if path.is_file() else "none found"


def version(package: str) -> str:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def report() -> dict[str, Any]:
    """All that `info` tells, ready for JSON."""
    built = _library.build_info()
    how = f"loaded; built with torch {built.get('torch')}, {built.get('compiler')}"
    loaded = {"cpp": how, "cuda": how, "triton": "imported"}
    return {
        "versions": {
            "fastloss": __version__,
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "triton": version("triton"),
            "CUDA of torch": torch.version.cuda or "none: torch is a CPU build",
            "NVIDIA driver": _driver(),
            "GPU": _gpus(),
            "platform": platform.platform(),
            "CPU": _cpu(),
            "threads": str(torch.get_num_threads()),
        },
        "binaries": {
            part: loaded[part] if reason is None else f"not loaded: {reason}"
            for part, reason in ((part, _library.UNAVAILABLE.get(part)) for part in _PARTS)
        },
        "ops": _library.backends(),
    }


def main(as_json: bool) -> int:
    """Print the report; returns the exit status."""
    found = report()
    if as_json:
        json.dump(found, sys.stdout, indent=2)
        print()
        return 0
    print_table("Versions", ("", ""), list(found["versions"].items()))
    parts = [(_PARTS[part], state) for part, state in found["binaries"].items()]
    print_table("Binaries", ("", ""), parts)
    rows = [(name, on["cpu"], on["cuda"]) for name, on in found["ops"].items()]
    print_table("Ops", ("op", "on cpu", "on cuda"), rows)
    return 0
