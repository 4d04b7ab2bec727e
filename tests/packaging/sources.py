"""Copies of the sources to build from, so that the checkout stays as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import toolchain

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["csrc", "fastloss", "triton_kernels", "setup.py", "pyproject.toml"]
SOURCES += ["MANIFEST.in", "LICENSE", "README.md"]
BUILT = shutil.ignore_patterns("*.so", "_build_info.json", "_triton", "__pycache__")
STEM = "regression_loss"


def copy_sources(folder: Path) -> Path:
    """The tracked sources, without what was built from them."""
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=BUILT)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def keep_one_stem(checkout: Path) -> None:
    """Leaves the C++ kernels of one stem, which compile in a few seconds."""
    for source in checkout.glob("csrc/cpu/*.cpp"):
        if source.stem != STEM:
            source.unlink()


def require_compiler() -> None:
    try:
        toolchain.require_cpp()
    except toolchain.Unavailable as reason:
        pytest.skip(f"no C++ build here: {reason}")
