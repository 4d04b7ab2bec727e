"""Benchmarks of fastloss against eager PyTorch, `torch.compile` and other kernels: `python -m bench
--help`."""

from bench.records import Record
from bench.runner import Comparison, quick_compare, run_workload
from bench.workload import Workload
from bench.workloads import WORKLOADS

__all__ = ["WORKLOADS", "Comparison", "Record", "Workload", "quick_compare", "run_workload"]
