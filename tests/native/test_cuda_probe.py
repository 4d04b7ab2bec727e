"""The CUDA build, proven by a small kernel: on any machine with nvcc, and on a GPU."""

import ctypes
import shutil
import subprocess

import pytest
import torch


@pytest.fixture(scope="module")
def bce(probe):
    torch.ops.load_library(probe)
    return torch.ops.fastloss_probe.bce


def test_probe_registers_its_kernel(bce):
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has_kernel("fastloss_probe::bce", "CUDA")
    assert not has_kernel("fastloss_probe::bce", "CPU")


def test_cuda_symbols_are_found_exactly_on_cuda_builds_of_torch(bce, probe):
    found = ctypes.CDLL(probe).fastloss_probe_cuda_symbols()
    assert bool(found) is (torch.version.cuda is not None)


@pytest.mark.skipif(not shutil.which("readelf"), reason="binutils is not installed")
def test_probe_needs_libtorch_but_no_cuda_library(probe):
    argv = ["readelf", "--dynamic", "--wide", str(probe)]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    needed = [line for line in said.splitlines() if "(NEEDED)" in line]
    assert any("libtorch.so" in line for line in needed)
    assert not any("cuda" in line for line in needed)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [0, 1, 255, 1_000_003])
def test_probe_runs(bce, n):
    logits = torch.linspace(-30, 30, n, device="cuda")
    targets = torch.linspace(0, 1, n, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        losses = bce(logits, targets)
        torch.cuda.current_stream().synchronize()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.double(), targets.double(), reduction="none"
    )
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
