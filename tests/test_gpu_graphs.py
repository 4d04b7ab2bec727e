"""On a GPU: no public loss waits for the device, and each can be captured in a CUDA graph.

One sample per function and set of options; sizes and values do not matter here.
"""

from __future__ import annotations

import pytest
import torch

from fastloss import functional
from fastloss.testing import Sample, samples

SAMPLES = {(s.function.__name__, repr(s.options)): s for s in samples() if "edge" not in s.tags}
REPLAYS = 20


def test_every_public_function_has_a_sample():
    lists = {"linear_sum_assignment"}  # of the results of linear_assignment, as long as they are
    assert {function for function, _ in SAMPLES} == set(functional.__all__) - lists


ON_DEVICE = [s for s in SAMPLES.values() if "host" not in s.tags]


@pytest.fixture(params=ON_DEVICE, ids=lambda sample: sample.name)
def sample(request: pytest.FixtureRequest) -> Sample:
    """A sample on the GPU that ran once, so that its kernels are compiled and loaded."""
    on_device = request.param.cast(torch.float32, "cuda")
    on_device.run()
    torch.cuda.synchronize()
    return on_device


@pytest.mark.gpu
class TestOnGpu:
    def test_nothing_waits_for_the_device(self, sample: Sample):
        torch.cuda.set_sync_debug_mode("error")
        try:
            sample.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_graph_replays_bitwise(self, sample: Sample):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            sample.run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            value, gradients = sample.run()
        results = [value, *gradients.values()]
        expected, slopes = sample.run()
        for _ in range(REPLAYS):
            for result in results:
                result.fill_(torch.nan)
            graph.replay()
            for result, eager in zip(results, [expected, *slopes.values()], strict=True):
                assert torch.equal(result, eager)
