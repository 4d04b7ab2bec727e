"""Builds that lack something: pure Python and one line saying why, or a failure if demanded."""

import json
import zipfile

import pytest
from sources import keep_one_stem, require_compiler

NO_TORCH = "import sys; sys.modules['torch'] = None"

# What is missing, as environment variables; and the words that must say so.
LACKING = {
    "no compiler on PATH": ({"PATH": "/nonexistent"}, "no 'c++' was found"),
    "a compiler that fails": ({"CXX": "false"}, "'false' cannot preprocess C++20"),
    "switched off": ({"FASTLOSS_CPP": "0"}, "FASTLOSS_CPP=0 left it out"),
    "no torch": ({"torch": None}, "--no-build-isolation"),
}


def environment(variables, tmp_path):
    """PYTHONPATH hides torch from the build where the variables say so."""
    if "torch" not in variables:
        return variables
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)
    return {"PYTHONPATH": tmp_path}


@pytest.mark.parametrize("lacking", LACKING)
def test_pure_python_wheel_says_what_it_lacks(lacking, build_wheel, tmp_path):
    variables, words = LACKING[lacking]
    wheel, output = build_wheel(**environment(variables, tmp_path))
    assert wheel.name.endswith("-py3-none-any.whl")
    (line,) = [line for line in output.splitlines() if "fastloss: C++ kernels:" in line]
    assert words in line
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        assert words in json.loads(archive.read("fastloss/_build_info.json"))["cpp"]


@pytest.mark.parametrize("lacking", [name for name in LACKING if name != "switched off"])
def test_demanded_cpp_fails_with_advice(lacking, run, checkout, tmp_path):
    variables, words = LACKING[lacking]
    variables = environment(variables, tmp_path) | {"FASTLOSS_CPP": "1"}
    done = run("setup.py", "bdist_wheel", cwd=checkout, **variables)
    assert done.returncode != 0
    assert "FASTLOSS_CPP=1 cannot be met" in done.stdout
    assert words in done.stdout


def test_demanded_cuda_fails_without_nvcc(run, checkout):
    (checkout / "csrc" / "cuda").mkdir(exist_ok=True)
    (checkout / "csrc" / "cuda" / "empty.cu").touch()
    variables = {"FASTLOSS_CPP": "0", "FASTLOSS_CUDA": "1", "CUDA_HOME": "/nonexistent"}
    done = run("setup.py", "bdist_wheel", cwd=checkout, CXX="c++", **variables)
    assert done.returncode != 0
    assert "FASTLOSS_CUDA=1 cannot be met" in done.stdout


@pytest.mark.parametrize("switch", ["FASTLOSS_CPP", "FASTLOSS_CUDA"])
def test_unknown_switch_value_is_refused(switch, run, checkout):
    done = run("setup.py", "bdist_wheel", cwd=checkout, **{switch: "yes"})
    assert done.returncode != 0
    assert f"{switch} must be auto, 0 or 1, got 'yes'" in done.stdout


def test_switching_off_removes_a_stale_binary(run, checkout):
    stale = checkout / "fastloss" / "_C.so"
    stale.write_bytes(b"from an earlier build")
    done = run("setup.py", "build_ext", "--inplace", cwd=checkout, FASTLOSS_CPP="0")
    assert done.returncode == 0, done.stdout
    assert not stale.exists()
    assert json.loads((checkout / "fastloss" / "_build_info.json").read_text())["cpp"] != "built"


def test_source_that_does_not_compile_stops_the_build(run, checkout):
    require_compiler()
    keep_one_stem(checkout)
    (checkout / "csrc" / "cpu" / "broken.cpp").write_text("#error deliberately broken\n")
    done = run("setup.py", "build_ext", "--inplace", cwd=checkout)
    assert done.returncode != 0
    assert "deliberately broken" in done.stdout
    assert "FASTLOSS_CPP=0" in done.stdout
