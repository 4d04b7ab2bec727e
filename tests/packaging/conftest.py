"""Fixtures that run builds offline, in copies of the sources."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sources import copy_sources, keep_one_stem, require_compiler

SWITCHES = ("FASTLOSS_CPP", "FASTLOSS_CUDA", "FASTLOSS_BACKEND", "CXX", "CUDA_HOME", "CUDA_PATH")
BUILD_WHEEL = ["-m", "pip", "wheel", "-v", "--no-index", "--no-deps", "--no-build-isolation", "-w"]


def run_python(*argv: object, cwd: Path, **variables: object) -> subprocess.CompletedProcess:
    """Runs this Python; keywords set variables of its environment."""
    clean = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=cwd,
        env=clean | {name: str(value) for name, value in variables.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    return lambda *argv, **options: run_python(*argv, **{"cwd": tmp_path, **options})


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy_sources(tmp_path / "checkout")


@pytest.fixture
def build_wheel(tmp_path: Path, checkout: Path) -> Callable[..., tuple[Path, str]]:
    """Builds a wheel through pip; returns it and pip's output."""

    def build(source: Path = checkout, **variables: object) -> tuple[Path, str]:
        folder = tmp_path / "wheels"
        done = run_python(*BUILD_WHEEL, folder, source, cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stdout
        return next(folder.glob("*.whl")), done.stdout

    return build


@pytest.fixture(scope="session")
def compiled_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with the C++ kernels of one stem; skips, visibly, without a compiler."""
    require_compiler()
    folder = tmp_path_factory.mktemp("compiled")
    source = copy_sources(folder / "checkout")
    keep_one_stem(source)
    done = run_python(*BUILD_WHEEL, folder, source, cwd=folder, FASTLOSS_CPP="1")
    assert done.returncode == 0, done.stdout
    return next(folder.glob("*.whl"))
