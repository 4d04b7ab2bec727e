"""Every implementation of every op against the float64 reference on the same rounded inputs."""

import contextlib
import itertools

import pytest
import torch

from fastloss._library import OPS
from fastloss.testing import TOLERANCES, Sample, assert_matches, implementation, samples

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check(sample: Sample, dtype: torch.dtype, *modes, tolerance=None) -> None:
    """In each mode all gradients at once, and that of the first leaf alone, which comes with the
    forward."""
    rounded = sample.cast(dtype)
    expected, expected_gradients = rounded.expected()
    options = {"scale": sample.scale, "tolerance": tolerance}
    for mode, only_first in itertools.product(modes, (False, True)):
        what = f"{dtype} {getattr(mode, 'language', 'dispatched')}"
        with mode:
            value, gradients = rounded.run(only_first)
        assert value.dtype == dtype
        assert_matches(value, expected, what=f"{what}: value", **options)
        for name, gradient in gradients.items():
            assert gradient.dtype == rounded.leaves()[name].dtype
            expected_gradient = expected_gradients[name]
            assert_matches(
                gradient, expected_gradient, what=f"{what}: gradient of {name}", **options
            )


@pytest.mark.parametrize("sample", samples(), ids=lambda s: s.name)
def test_dispatched_and_reference(sample):
    """What the dispatcher chooses for CPU tensors, C++ where it was built; the reference in the
    tensor's own precision, and in half precision, where one dtype is like the other."""
    dispatched, reference = contextlib.nullcontext(), implementation("reference")
    check(sample, torch.float64, dispatched)
    check(sample, torch.float16, dispatched)
    check(sample, torch.float32, dispatched, reference)
    check(sample, torch.bfloat16, dispatched, reference)


def for_triton() -> list:
    """All samples in float32; the other dtypes, which only change loads and stores, on small ones
    without reduction."""
    chosen = []
    for sample in (s for s in samples() if "host" not in s.tags):
        unreduced = sample.options.get("reduction") == "none"
        for dtype in DTYPES:
            if dtype == torch.float32 or ("smooth" in sample.tags and unreduced):
                chosen.append(pytest.param(sample, dtype, id=f"{sample.name}-{dtype}"))
    return chosen


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles for the GPU here")
@pytest.mark.parametrize("sample,dtype", for_triton())
def test_triton_interpreted(sample, dtype, triton_kernels):
    """The Triton kernels in Triton's interpreter, which cuts results off to bfloat16."""
    tolerance = TOLERANCES[dtype].truncated() if dtype == torch.bfloat16 else None
    check(sample, dtype, implementation("triton"), tolerance=tolerance)


def test_every_op_has_triton_kernels(triton_kernels):
    """Or hands its work to the CPU kernel, as `backends` says."""
    assert not {name for name, op in OPS.items() if not {"triton", "host"} & {*op.implementations}}


def for_gpu() -> list:
    """Those for Triton, and the ops that hand their work to the CPU."""
    host = [s for s in samples() if "host" in s.tags]
    return for_triton() + [pytest.param(s, d, id=f"{s.name}-{d}") for s in host for d in DTYPES]


@pytest.mark.gpu
@pytest.mark.parametrize("sample,dtype", for_gpu())
def test_gpu(sample, dtype):
    rounded = sample.cast(dtype)
    expected, expected_gradients = rounded.expected()
    for only_first in (False, True):
        value, gradients = rounded.cast(dtype, "cuda").run(only_first)
        assert value.is_cuda
        assert_matches(value, expected, what="value", scale=sample.scale)
        for name, gradient in gradients.items():
            assert_matches(gradient, expected_gradients[name], what=name, scale=sample.scale)
