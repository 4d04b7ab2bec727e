"""Every Triton kernel compiles for the GPUs we name, without one; see aot.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

AOT = Path(__file__).with_name("aot.py")


def compile_kernels(*arguments: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    result = subprocess.run(
        [sys.executable, str(AOT), *arguments], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " 0 failed" in result.stdout


def test_a_few_specialisations(triton_kernels):
    """And the table of all kernels names the kernels and formulas that there are."""
    compile_kernels("--most", "24", "--check")


@pytest.mark.full
def test_every_value_of_every_constant(triton_kernels):
    """No spills, and full vectors on the main path."""
    compile_kernels()
