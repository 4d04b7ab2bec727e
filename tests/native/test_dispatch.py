"""One binary runs the code for AVX-512, for AVX2, and for neither, and is right with each.

The object files that are installed are linked once more, with processor.cpp to say what the
processor has.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toolchain
from torch.backends.cpu import get_cpu_capability

import fastloss

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OBJECTS = ROOT / "build" / "native" / "_C"
CAPABILITY = {"x86-64-v4": ("AVX512",), "x86-64-v3": ("AVX2", "AVX512")}


def package_for(level: str) -> Path:
    """A folder with the package and its kernels as they dispatch on a processor of that level."""
    folder = ROOT / "build" / "dispatch" / (level or "neither")
    package = folder / "fastloss"
    shutil.rmtree(package, ignore_errors=True)
    left_out = shutil.ignore_patterns("*.so", "_build_info.json", "_triton", "__pycache__")
    shutil.copytree(ROOT / "fastloss", package, ignore=left_out)
    argv = [*toolchain.find_compiler(), "-O1", "-fPIC", "-fvisibility=hidden", "-shared"]
    argv += [f'-DLEVEL="{level}"'] if level else []
    argv += [HERE / "processor.cpp", *sorted(OBJECTS.glob("*.o")), "-o", package / "_C.so"]
    argv += [f"-L{toolchain.find_torch() / 'lib'}", *toolchain.LIBRARIES]
    subprocess.run(list(map(str, argv)), check=True)
    return folder


def run(folder: Path, *argv: object) -> str:
    """The output of this Python with the package in `folder`."""
    environment = {name: x for name, x in os.environ.items() if name != "FASTLOSS_BACKEND"}
    environment |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, *map(str, argv)]
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "level",
    [
        pytest.param("x86-64-v4", marks=pytest.mark.full),
        pytest.param("x86-64-v3", marks=pytest.mark.full),
        "",
    ],
    ids=lambda level: level or "neither",
)
def test_each_version_is_right(level):
    if platform.machine() != "x86_64" or not list(OBJECTS.glob("*.o")):
        pytest.skip("there are no object files of an x86-64 build in build/native")
    if level and get_cpu_capability() not in CAPABILITY[level]:
        pytest.skip(f"this processor has no {level}")
    if "C++" not in fastloss.backends()["box_loss"]["cpu"]:
        pytest.skip("there are no C++ kernels")
    folder = package_for(level)
    chosen = json.loads(run(folder, HERE / "dispatched.py"))
    suffix = level.replace("-", "_") or "default"
    assert len(chosen) > 20
    assert not [name for name in chosen if f".arch_{suffix}" not in name and level]
    assert not [name for name in chosen if ".arch_" in name and not level]
    run(folder, "-m", "fastloss", "selftest", "--device", "cpu", *([] if level else ["--quick"]))
