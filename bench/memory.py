"""Peak memory of a step beyond what was allocated before it."""

from __future__ import annotations

import os

import torch
from torch.profiler import ProfilerActivity, profile

from bench.timing import Step

# The name under which the profiler lists every allocation and release (positive and negative
# bytes).
_MEMORY_EVENT = "[memory]"

# Kineto writes two lines to stderr per profile below this level; it reads the variable when first
# used.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def peak_bytes(step: Step, device: torch.device) -> int:
    """Most bytes alive at once during the step, its gradient included and its inputs not."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return _peak(profiler)


def _peak(profiler: profile) -> int:
    # A dispatch mode would not see what a C++ kernel allocates inside an op; the allocator's own
    # events do.
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == _MEMORY_EVENT]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
