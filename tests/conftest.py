"""Shared by all tests. Without a GPU, Triton kernels run in Triton's interpreter on CPU tensors."""

import os
import sys

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not HAS_GPU:
        skip = pytest.mark.skip(
            reason="needs a CUDA GPU: run `make gpu-check` on a machine with one"
        )
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def poisoned_memory():
    """New memory holds NaN, so that an element no kernel wrote is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def triton_kernels():
    """Skip where Triton does not exist; on Linux it must, so a missing one fails there."""
    from fastloss._library import UNAVAILABLE

    if "triton" in UNAVAILABLE:
        if sys.platform == "linux":
            pytest.fail(f"the Triton kernels do not import: {UNAVAILABLE['triton']}")
        pytest.skip(f"Triton is not available on {sys.platform}")
