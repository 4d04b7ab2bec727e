"""Shared by all tests. Without a GPU, Triton kernels run in Triton's interpreter on CPU tensors."""

import gc
import os
import sys

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

torch.utils.deterministic.fill_uninitialized_memory = True

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # The processes share the cores between them.


def spare_patches_of_triton() -> None:
    """Triton's interpreter replaces the functions of its language at every launch, and again at
    every call of a device function, a third of its time. It undoes only the former, so that one
    call for each module does."""
    try:
        from triton.runtime import interpreter
    except Exception:  # The tests that need Triton say why it does not load.
        return
    patched = set()

    def call(self: interpreter.InterpretedFunction, *args: object, **named: object) -> object:
        if self.fn.__module__ not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(self.fn.__module__)
        return self.rewrite()(*args, **named)

    interpreter.InterpretedFunction.__call__ = call


if not HAS_GPU:
    spare_patches_of_triton()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not HAS_GPU:
        skip = pytest.mark.skip(
            reason="needs a CUDA GPU: run `make gpu-check` on a machine with one"
        )
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    # The modules and the thousands of tests are alive to the end: the garbage collector need not
    # visit them again and again.
    gc.collect()
    gc.freeze()


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
