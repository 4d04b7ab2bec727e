"""Samples, tolerances and comparisons with which fastloss is tested; use them for yours."""

from .compare import assert_matches
from .modes import capture, forbid_host_reads, implementation
from .samples import Sample, samples
from .tolerances import TOLERANCES, Tolerance

__all__ = [
    "TOLERANCES",
    "Sample",
    "Tolerance",
    "assert_matches",
    "capture",
    "forbid_host_reads",
    "implementation",
    "samples",
]
