"""The Triton kernels with another version of Triton, in a folder of its own on PYTHONPATH."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT

FOLDER = Path(os.environ.get("FASTLOSS_TRITON2", ROOT / ".venv" / "triton2"))
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not FOLDER.exists(), reason="make test-full installs the second Triton"),
]


def run(*argv: str, interpret: bool = False) -> str:
    """The output of this Python with that Triton."""
    path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": str(int(interpret))}
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_it_is_another_version():
    import triton

    assert run("-c", "import triton; print(triton.__version__)").strip() != triton.__version__


def test_kernels_compile():
    """A sample of all specialisations."""
    assert " 0 failed" in run("tests/aot.py", "--most", "40")


def test_values_in_the_interpreter():
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_values.py"]
    assert " passed" in run(*tests, "-k", "triton_interpreted and weight", interpret=True)
