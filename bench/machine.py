"""What the machine is, how fast it copies, and which software runs on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import timing

ROOT = Path(__file__).resolve().parents[1]

# Far beyond the caches of one core, and of a GPU's L2.
_COPY_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}
_COPY_ROUNDS = 9


@dataclass(frozen=True)
class Machine:
    device: torch.device
    name: str
    slug: str
    driver: str | None
    threads: int
    copy_gbps: float  # bytes read plus bytes written, 1e9 per second
    commit: str


def inspect(device: str, threads: int) -> Machine:
    chosen = torch.device(device)
    if chosen.type == "cuda":
        name, driver = torch.cuda.get_device_name(chosen), _driver()
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    else:
        simd, cores, driver = _simd(), os.cpu_count() or 1, None
        name = f"{platform.machine()} {simd}, {cores} cores"
        slug = f"cpu-{simd.lower()}-{cores}core"
    bandwidth = copy_bandwidth(chosen, threads)
    return Machine(chosen, name, slug, driver, threads, bandwidth, commit())


def _simd() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return platform.machine() if capability == "DEFAULT" else capability.replace(" ", "")


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.stdout else None


def copy_bandwidth(device: torch.device, threads: int) -> float:
    """The best of several copies: a floor should be what the machine can do, not what it did while
    disturbed."""
    source = torch.ones(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock = timing.make_clock(device, threads)
    with timing.threads(threads):
        clock.measure(lambda: target.copy_(source), 2)
        best = min(clock.measure(lambda: target.copy_(source), 1)[0] for _ in range(_COPY_ROUNDS))
    return 2 * source.numel() / best / 1e6


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """HEAD of this checkout, "+dirty" where files other than the results and the README differ from
    it."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return "unknown"
    changed = _git("status", "--porcelain", "--", ".", ":!bench/results", ":!README.md")
    return head[:12] + ("+dirty" if changed else "")


def _git(*arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    answer = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else None
