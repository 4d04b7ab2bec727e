"""What the tests of the bench share: small workloads and made-up records."""

from __future__ import annotations

import dataclasses

import torch

from bench import records
from bench.contenders import EAGER, FASTLOSS
from bench.machine import Machine
from bench.records import Record
from bench.workloads import WORKLOADS

CPU = Machine(torch.device("cpu"), "a test CPU", "cpu-test", None, 1, 10.0, "0123456789ab")


def tiny(name):
    """The workload on a few rows, enough for every branch of its loss to occur."""
    workload = WORKLOADS[name]
    small = workload.sizes["small"]
    if workload.call is None:  # The class was built for so many columns.
        return dataclasses.replace(workload, sizes={"small": _fewer(small)})
    images = (1, min(small[1], 2), 64, 64) if len(small) == 4 else ()
    shape = {1: (300,), 2: (100, 8), 3: (2, 100, 7), 4: images}[len(small)]
    return dataclasses.replace(workload, sizes={"small": shape})


def _fewer(shape):
    """Fewer rows; fewer and smaller images."""
    return (2, shape[1], 16, 16) if len(shape) == 4 else (24, *shape[1:])


def doubled(plain):
    """A contender with wrong numbers."""
    return lambda *args, **kwargs: 2 * plain(*args, **kwargs)


def a_record(**changes):
    blank = Record(
        suite="losses",
        stem="box_loss",
        workload="aligned_giou",
        contender=FASTLOSS,
        source="test",
        status=records.OK,
        size="small",
        shape=(10,),
        dtype="float32",
        threads=1,
        device="a test CPU",
        driver=None,
        clock="process CPU time",
        rounds=2,
        commit="0123456789ab",
        fastloss="0.1",
        torch="2.13.0",
        triton=None,
        date="2026-01-01",
        tolerance=1e-4,
        floor_mb=52.0,
    )
    return dataclasses.replace(blank, **changes)


def a_run():
    """Two workloads, three contenders: one compile failed, one fastloss result was wrong."""
    times = {"median_ms": 10.0, "peak_mb": 4.0, "percent_floor": 50.0, "ratio": 1.0}
    fast = {"median_ms": 2.0, "peak_mb": 1.0, "percent_floor": 90.0, "ratio": 5.0}
    return [
        a_record(contender=EAGER, **times),
        a_record(contender="compiled", **{**times, "median_ms": 4.0, "ratio": 2.5}),
        a_record(contender=FASTLOSS, best="compiled", ratio_best=2.0, **fast),
        a_record(workload="elem_l1", stem="regression_loss", contender=EAGER, **times),
        a_record(workload="elem_l1", contender="compiled", status="failed: no compiler"),
        a_record(workload="elem_l1", contender=FASTLOSS, status=records.WRONG, error=0.5),
    ]
