"""csrc/toolchain.py: what users set, and paths that need quoting."""

import shutil
from pathlib import Path

import pytest
import toolchain
from sources import require_compiler

SOURCE = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
torch::stable::Tensor same(torch::stable::Tensor x) { return x; }
STABLE_TORCH_LIBRARY_FRAGMENT(fastloss_test, m) { m.def("same(Tensor(a) x) -> Tensor(a)"); }
"""


def test_arch_list_names_machine_code_and_ptx(monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0; 9.0a+PTX")
    flags = toolchain.gencode(toolchain.cuda_arches())
    assert flags[1::2] == [
        "arch=compute_80,code=sm_80",
        "arch=compute_90a,code=sm_90a",
        "arch=compute_90a,code=compute_90a",
    ]


@pytest.mark.parametrize("entry", ["Ampere", "80", "8.0+SASS", "8.0 -o x"])
def test_unknown_arch_is_refused(entry, monkeypatch):
    with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST"):
        toolchain.gencode([entry])


def test_old_torch_is_refused(monkeypatch):
    monkeypatch.setattr(toolchain, "torch_version", lambda: "2.9.1+cu128")
    with pytest.raises(toolchain.Unavailable, match=r"torch 2\.9\.1\+cu128 .* torch>=2\.10"):
        toolchain.find_torch()


def test_folder_names_are_quoted(tmp_path, monkeypatch):
    require_compiler()
    folder = tmp_path / "a folder: $HOME 'quoted'"
    folder.mkdir()
    (folder / "a source.cpp").write_text(SOURCE)
    monkeypatch.setenv("MAX_JOBS", "1")
    toolchain.build_cpu([folder / "a source.cpp"], folder / "an output.so")
    assert (folder / "an output.so").stat().st_size > 1000


def test_only_changed_sources_are_compiled_again(tmp_path, capfd):
    require_compiler()
    source = tmp_path / "source.cpp"
    source.write_text(SOURCE)
    for expected in ("[1/2]", "no work to do"):
        toolchain.build_cpu([source], tmp_path / "output.so")
        assert expected in capfd.readouterr().out


def test_toolkit_is_found_behind_a_wrapper(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    if not (nvcc := shutil.which("nvcc")):
        pytest.skip("nvcc is not on PATH")
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    found, top = toolchain.find_cuda()
    assert Path(found) == wrapper
    assert list(top.glob("lib*/libcudart_static.a"))
