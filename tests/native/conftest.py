"""The shared objects built for these tests, in build/tests, where ninja keeps them current. Each
process of pytest-xdist has a folder of its own there."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
import toolchain

HERE = Path(__file__).resolve().parent
BUILT = HERE.parents[1] / "build" / "tests" / os.environ.get("PYTEST_XDIST_WORKER", "")


@pytest.fixture(scope="session")
def native() -> ModuleType:
    """module.cpp as a Python module; skips, visibly, where it cannot be built."""
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").exists():
        pytest.skip("the headers of this Python are not installed")
    pybind11 = pytest.importorskip("pybind11")
    try:
        toolchain.require_cpp()
    except toolchain.Unavailable as reason:
        pytest.skip(str(reason))
    compiler = [*toolchain.find_compiler(), *toolchain.CXX_FLAGS, f"-I{python}"]
    output = BUILT / f"fastloss_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = f"-I{pybind11.get_include()}"
    toolchain.run_ninja([*compiler, include], [HERE / "module.cpp"], [], output)
    spec = importlib.util.spec_from_file_location("fastloss_native", output)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def probe() -> Path:
    """probe.cu as a shared object for sm_80 and sm_90; skips, visibly, without nvcc."""
    try:
        toolchain.require_cuda()
    except toolchain.Unavailable as reason:
        pytest.skip(str(reason))
    output = BUILT / "probe.so"
    toolchain.build_cuda([HERE / "probe.cu"], output, ["8.0", "9.0+PTX"])
    return output
