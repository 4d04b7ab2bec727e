"""The binary built on one torch runs on another, without a rebuild (the LibTorch stable ABI)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT

PYTHON = Path(os.environ.get("FASTLOSS_PYTHON2", ROOT / ".venv-torch2" / "bin" / "python"))


def info(python: object) -> dict:
    argv = [python, "-m", "fastloss", "info", "--json"]
    return json.loads(subprocess.run(argv, cwd=ROOT, check=True, capture_output=True).stdout)


@pytest.mark.full
@pytest.mark.skipif(not PYTHON.exists(), reason="make test-full makes the second environment")
def test_binary_passes_selftest_on_a_second_torch():
    here, there = info(sys.executable), info(PYTHON)
    assert here["versions"]["torch"] != there["versions"]["torch"]
    if not here["binaries"]["cpp"].startswith("loaded"):
        pytest.skip(f"no binary to run: {here['binaries']['cpp']}")
    assert there["binaries"]["cpp"] == here["binaries"]["cpp"]
    runs = {name: op["cpu"] for name, op in there["ops"].items()}
    assert "C++" in runs.values()
    assert runs == {name: op["cpu"] for name, op in here["ops"].items()}
    argv = [PYTHON, "-m", "fastloss", "selftest", "--device", "cpu"]
    done = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
