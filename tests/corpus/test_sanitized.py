"""A few cases of the corpus in the sanitized build; `make asan` runs many."""

import platform
import subprocess
import sys

import pytest
import sanitize
import toolchain


def test_few_cases():
    if platform.system() != "Linux":
        pytest.skip("the sanitizers are preloaded as on Linux")
    try:
        toolchain.require_cpp()
        sanitize.environment()
    except toolchain.Unavailable as reason:
        pytest.skip(f"no sanitized build here: {reason}")
    argv = [sys.executable, sanitize.__file__, "25"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "deliberate defects were caught" in done.stdout
