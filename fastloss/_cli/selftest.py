"""`python -m fastloss selftest`: the kernels that run here against the float64 reference.

A check is one sample in one dtype on one device: value and gradients within the tolerance table,
and the same bits in a second run.
"""

import contextlib
import datetime
import json
import pkgutil
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .. import _library, ops
from ..testing import TOLERANCES, Sample, assert_matches, capture, samples
from .console import print_table, progress
from .info import version

DTYPES = tuple(TOLERANCES)
_SHOWN = 10  # failures printed per stem and device
Results = dict[str, Tensor]
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Tally:
    """What became of the checks of one stem on one device."""

    checks: int = 0
    worst: float = 0.0  # largest error in units of its bound
    failures: list[str] = field(default_factory=list)
    ran: set[str] = field(default_factory=set)  # ops
    failed: set[str] = field(default_factory=set)


def devices() -> tuple[str, ...]:
    """The devices this machine can test."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def stems() -> list[str]:
    """One stem per file in fastloss/ops."""
    return [m.name for m in pkgutil.iter_modules(ops.__path__) if not m.name.startswith("_")]


@contextlib.contextmanager
def _poisoned_memory() -> Iterator[None]:
    """New memory holds NaN, so that an element no kernel wrote is seen."""
    was = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warn_only)


def _error(actual: Tensor, expected: Tensor, scale: float) -> float:
    """Largest error in units of its bound, over the elements where both are finite."""
    values = actual.cpu().double()
    finite = values.isfinite() & expected.isfinite()
    exact = expected[finite]
    bound = TOLERANCES[actual.dtype].bound(exact, scale)
    return float(((values[finite] - exact).abs() / bound).max()) if len(exact) else 0.0


def _same_bits(first: Tensor, second: Tensor) -> bool:
    bits = _BITS[first.element_size()]
    return torch.equal(first.view(bits), second.view(bits))


def _compare(results: list[Results], expected: Results, scale: float) -> float:
    """Largest error of two runs in units of its bound; AssertionError names what is wrong."""
    first, second = results
    worst = 0.0
    for what, actual in first.items():
        assert_matches(actual, expected[what], scale=scale, what=what)
        worst = max(worst, _error(actual, expected[what], scale))
        if not _same_bits(actual, second[what]):
            raise AssertionError(f"{what}: a second run gave other bits")
    return worst


def _named(run: tuple[Tensor, Results]) -> Results:
    value, gradients = run
    return {"value": value, **{f"gradient of {name}": g for name, g in gradients.items()}}


def _check(sample: Sample, dtype: torch.dtype, tallies: dict[str, Tally]) -> None:
    """One sample in one dtype, on every device."""
    rounded = sample.cast(dtype)
    expected = _named(rounded.expected())
    for device, tally in tallies.items():
        tally.checks += 1
        on_device = rounded.cast(dtype, device)
        try:
            with capture() as calls:  # all gradients; the first alone comes with the forward
                paths = [[on_device.run(first) for _ in range(2)] for first in (False, True)]
            for runs in paths:
                error = _compare(list(map(_named, runs)), expected, sample.scale)
                tally.worst = max(tally.worst, error)
        except Exception as problem:  # a kernel that does not compile or launch is a finding too
            tally.failed.update(name for name, _ in calls)
            kind = "" if isinstance(problem, AssertionError) else f"{type(problem).__name__}: "
            text = str(problem).strip().partition("\n")[0]
            tally.failures.append(f"{sample.name}, {str(dtype)[6:]}: {kind}{text}")
        tally.ran.update(name for name, _ in calls)


def run(on: Sequence[str], quick: bool) -> dict[str, dict[str, Tally]]:
    """All checks: stem -> device -> what became of them."""
    chosen = {
        stem: [s for s in samples(stem) if not quick or s.tags & {"small", "edge"}]
        for stem in stems()
    }
    dtypes = (torch.float32,) if quick else DTYPES
    tallies = {stem: {device: Tally() for device in on} for stem in chosen}
    total = len(dtypes) * sum(map(len, chosen.values()))
    with _poisoned_memory(), progress(total) as step:
        for stem, found in chosen.items():
            for sample in found:
                for dtype in dtypes:
                    step(stem)
                    _check(sample, dtype, tallies[stem])
    return tallies


def _rows(tallies: dict[str, dict[str, Tally]]) -> Iterator[tuple[str, ...]]:
    table = _library.backends()
    for stem, by_device in tallies.items():
        for device, tally in by_device.items():
            kernels = {table[op][device].partition(" (")[0] for op in tally.ran}
            state = f"{len(tally.failures)} FAILED" if tally.failures else "ok"
            worst = f"{tally.worst:.2f}"
            yield stem, device, ", ".join(sorted(kernels)), str(tally.checks), worst, state


def _git(*arguments: str) -> str | None:
    """What git says in the package's folder, or None where that is in no checkout."""
    if shutil.which("git") is None:
        return None
    folder = Path(ops.__path__[0])
    answer = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else None


def _commit() -> str:
    """HEAD of the package's checkout, "+dirty" if code that the checks run differs from it."""
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return "unknown"
    code = [f":/{folder}" for folder in ("fastloss", "triton_kernels", "csrc")]
    changed = _git("status", "--porcelain", "--", *code, ":!/fastloss/_gpu_runs.json")
    return f"{_git('rev-parse', '--short=12', 'HEAD')}{'+dirty' if changed else ''}"


def save(path: Path, tallies: dict[str, dict[str, Tally]], commit: str | None) -> None:
    """Note in the JSON file every op with a CUDA kernel that passed; drop those that failed."""
    runs = json.loads(path.read_text()) if path.is_file() else {}
    entry = {
        "gpu": torch.cuda.get_device_name(),
        "commit": commit or _commit(),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "triton": version("triton"),
    }
    table = _library.backends()
    for tally in (by_device["cuda"] for by_device in tallies.values()):
        kernels = {op for op in tally.ran if not table[op]["cuda"].startswith("reference")}
        runs |= dict.fromkeys(kernels - tally.failed, entry)
        runs = {op: run for op, run in runs.items() if op not in tally.failed}
    path.write_text(json.dumps(dict(sorted(runs.items())), indent=2) + "\n")


def main(on: Sequence[str], quick: bool, record: Path | None, commit: str | None) -> int:
    """Run and report; returns the exit status, 1 if any check failed."""
    started = time.monotonic()
    with _library.backend("auto"):
        tallies = run(on, quick)
        rows = list(_rows(tallies))
        if record is not None:
            save(record, tallies, commit)
    header = ("stem", "device", "runs", "checks", "worst error / bound", "")
    print_table("Against the float64 reference, forward and backward, two runs", header, rows)
    failures = []
    for stem, by_device in tallies.items():
        for device, tally in by_device.items():
            failures += [f"{stem} on {device}: {text}" for text in tally.failures[:_SHOWN]]
            if len(tally.failures) > _SHOWN:
                more = len(tally.failures) - _SHOWN
                failures.append(f"{stem} on {device}: ... and {more} more failed")
    for device in on if not failures else ():  # a failure keeps the rest of its check from running
        ran = set().union(*(by_device[device].ran for by_device in tallies.values()))
        failures += [f"{op} on {device}: no check ran it" for op in _library.OPS if op not in ran]
    for failure in failures:
        print(f"FAILED {failure}")
    state = "failed" if failures else "passed"
    print(f"selftest {state} in {time.monotonic() - started:.0f} s")
    return 1 if failures else 0
