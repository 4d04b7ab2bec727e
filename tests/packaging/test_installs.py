"""What the wheel and the sdist hold, and that what is installed from them works."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from sources import keep_one_stem, require_compiler

from fastloss._library import UNAVAILABLE

SHOW = "import fastloss, fastloss._library as l; print(fastloss.__file__, l.UNAVAILABLE)"
RUN_CPU = """
import torch, fastloss.functional as F
pred = torch.zeros(2, 3, requires_grad=True)
F.regression_loss(pred, torch.ones(2, 3), kind="mse", reduction="sum").backward()
assert pred.grad.eq(-2).all()
"""


@pytest.fixture
def installed(compiled_wheel: Path, tmp_path: Path) -> Path:
    """The wheel's content in a folder of its own, as `pip install --target` leaves it."""
    target = tmp_path / "site"
    argv = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target"]
    subprocess.run([*argv, str(target), str(compiled_wheel)], check=True, capture_output=True)
    return target


def test_these_tests_run_the_binary_where_it_can_be_built():
    if os.environ.get("FASTLOSS_CPP") == "0":
        pytest.skip("FASTLOSS_CPP=0 leaves the binary out")
    require_compiler()
    assert "cpp" not in UNAVAILABLE


def test_wheel_holds_the_package_and_nothing_else(compiled_wheel):
    names = zipfile.ZipFile(compiled_wheel).namelist()
    assert {"fastloss/_C.so", "fastloss/py.typed", "fastloss/_triton/__init__.py"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastloss"}
    assert compiled_wheel.name.split("-", 2)[2].startswith("py3-none-linux_")


def test_installed_wheel_runs_its_binary(installed, run):
    done = run("-c", SHOW + RUN_CPU, PYTHONPATH=installed)
    assert done.returncode == 0, done.stdout
    assert str(installed) in done.stdout and "'cpp'" not in done.stdout


@pytest.mark.parametrize("damage", ["missing", "truncated", "overwritten", "another version"])
def test_damaged_binary_leaves_its_reason(damage, installed, run):
    binary = installed / "fastloss" / "_C.so"
    if damage == "missing":
        binary.unlink()
    elif damage == "truncated":
        binary.write_bytes(binary.read_bytes()[:1000])
    elif damage == "overwritten":
        binary.write_bytes(b"no shared object")
    else:
        info = installed / "fastloss" / "_build_info.json"
        info.write_text(info.read_text().replace('"version": "', '"version": "9.'))
    done = run("-c", SHOW + RUN_CPU, PYTHONPATH=installed)
    assert done.returncode == 0, done.stdout
    assert "'cpp': '" in done.stdout and "'cpp': 'built'" not in done.stdout


def test_triton_kernels_of_triton_lang_stay_importable(installed, run, checkout):
    theirs = installed.parent / "theirs" / "triton_kernels"
    theirs.mkdir(parents=True)
    theirs.joinpath("__init__.py").write_text("OWNER = 'triton-lang'\n")
    code = SHOW + "; import triton_kernels; assert triton_kernels.OWNER == 'triton-lang'"
    path = f"{installed}:{theirs.parent}"
    # The second folder is a checkout, whose own triton_kernels folder comes first on the path.
    for folder in (installed.parent, checkout):
        done = run("-c", code, cwd=folder, PYTHONPATH=path)
        assert done.returncode == 0, done.stdout
        assert "'triton'" not in done.stdout


def test_sdist_holds_all_sources_and_nothing_built(run, checkout):
    (checkout / "fastloss" / "_C.so").touch()
    (checkout / "fastloss" / "_build_info.json").write_text("{}")
    done = run("setup.py", "sdist", cwd=checkout, FASTLOSS_CPP="1", CXX="false")
    assert done.returncode == 0, done.stdout
    with tarfile.open(next((checkout / "dist").glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("csrc", "fastloss", "triton_kernels"):
        ours = {path.relative_to(checkout) for path in checkout.glob(f"{folder}/**/*.[pchj]*")}
        built = {Path("fastloss/_build_info.json")}
        assert {str(path) for path in ours - built if "__pycache__" not in path.parts} <= names
    assert not [name for name in names if name.endswith((".so", "_build_info.json"))]


@pytest.mark.full
def test_sdist_builds_the_same_wheel(run, checkout, build_wheel, compiled_wheel):
    run("setup.py", "sdist", cwd=checkout)
    wheel, _ = build_wheel(next((checkout / "dist").glob("*.tar.gz")), FASTLOSS_CPP="1")
    theirs, ours = (zipfile.ZipFile(path).namelist() for path in (wheel, compiled_wheel))
    assert sorted(theirs) == sorted(ours)


@pytest.mark.full
def test_editable_install_uses_the_checkout(run, checkout, tmp_path, monkeypatch):
    require_compiler()
    keep_one_stem(checkout)
    run("-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    site.joinpath("outer.pth").write_text(
        "\n".join(path for path in sys.path if "-packages" in path)
    )
    install = ["-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "-e"]
    for switch, loaded in (("1", True), ("0", False)):
        monkeypatch.setenv("FASTLOSS_CPP", switch)
        subprocess.run([python, *install, checkout], check=True, cwd=tmp_path)
        argv = [python, "-c", SHOW + RUN_CPU]
        shown = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        assert str(checkout) in shown.stdout
        assert ("'cpp'" not in shown.stdout) is loaded
        assert (checkout / "fastloss" / "_C.so").exists() is loaded
