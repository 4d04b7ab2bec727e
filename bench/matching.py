"""The workloads of matching predictions with targets: costs, assignments, anchors."""

from __future__ import annotations

from bench.workload import Workload

COSTS: tuple[Workload, ...] = ()

ASSIGNMENTS: tuple[Workload, ...] = ()

ANCHORS: tuple[Workload, ...] = ()

WORKLOADS = (*COSTS, *ASSIGNMENTS, *ANCHORS)
