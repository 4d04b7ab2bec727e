"""Builds, tests and measures fastloss on a CUDA machine, offline, with the torch and Triton it has.

`make gpu-check` runs every step, whatever became of the ones before it, and ends with a summary;
each step's output is kept in build/gpu-check, also when the step is stopped at its time limit.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "gpu-check"
TOTAL_SECONDS = 460


class Skipped(Exception):
    """Why a step has nothing to run here."""


def build() -> list[str]:
    # An install maps this package to its folder; a build in place needs a link instead.
    link = ROOT / "fastloss" / "_triton"
    if not link.exists():
        link.symlink_to(Path("..", "triton_kernels", "fastloss_triton"))
    return [sys.executable, "setup.py", "build_ext", "--inplace"]


def selftest() -> list[str]:
    """Fails without a CUDA device; with one, notes in the package which ops have run on it."""
    record = ["--record", str(ROOT / "fastloss" / "_gpu_runs.json")]
    # COMMIT names the state of the sources where a copy without its git history is checked.
    commit = ["--commit", os.environ["COMMIT"]] if os.environ.get("COMMIT") else []
    return [sys.executable, "-m", "fastloss", "selftest", *record, *commit]


def tests() -> list[str]:
    if not importlib.util.find_spec("pytest"):
        raise Skipped("this Python has no pytest")
    return [sys.executable, "-m", "pytest", "-m", "gpu"]


def sanitizer() -> list[str]:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    if not (tool := shutil.which("compute-sanitizer", path=path)):
        raise Skipped("compute-sanitizer is not installed")
    # Torch hands out parts of large blocks, which would hide overruns, unless told not to.
    command = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", tool, "--tool", "memcheck"]
    command += ["--error-exitcode", "3", sys.executable, "-m", "fastloss", "selftest"]
    return [*command, "--device", "cuda", "--quick"]


def bench() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        raise Skipped("torch finds no CUDA device")
    device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    record = ROOT / "bench" / "results" / device / "quick.jsonl"
    return [sys.executable, "-m", "bench", "--device", "cuda", "--quick", "--json", str(record)]


# Each step's command, and the seconds that the steps before it must leave it.
STEPS = {
    "build": (build, 60),
    "selftest": (selftest, 90),
    "tests": (tests, 120),
    "sanitizer": (sanitizer, 60),
    "bench": (bench, 60),
}


def run(command: list[str], log: Path, seconds: float) -> str:
    """Runs a command with its output shown and kept; returns "ok" or what went wrong."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if environment.get("FASTLOSS_CPP", "auto") == "auto":
        environment["FASTLOSS_CPP"] = "1"  # A missing compiler is a failure here.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    with log.open("w") as file:
        for line in process.stdout:
            sys.stdout.write(line)
            file.write(line)
            sys.stdout.flush()
            file.flush()
    code = process.wait()
    timer.cancel()
    if code == -signal.SIGKILL:
        return f"STOPPED after {seconds:.0f} s"
    return f"FAILED with exit code {code}" if code else "ok"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "steps", nargs="*", metavar="step", help=f"of {', '.join(STEPS)}; all if none"
    )
    steps = parser.parse_args().steps or list(STEPS)
    if unknown := set(steps) - set(STEPS):
        parser.error(f"unknown step {unknown.pop()!r}; choose from {', '.join(STEPS)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    start, results = time.monotonic(), {}
    for step in steps:
        make_command, _ = STEPS[step]
        kept = sum(STEPS[later][1] for later in steps[len(results) + 1 :])
        begun = time.monotonic()
        try:
            command = make_command()
            print(f"\n== {step}: {' '.join(command)}", flush=True)
            left = TOTAL_SECONDS - (begun - start) - kept
            results[step] = run(command, LOGS / f"{step}.log", left)
        except Skipped as reason:
            results[step] = f"skipped: {reason}"
        results[step] += f" ({time.monotonic() - begun:.0f} s)"
    summary = "".join(f"{step:<10} {result}\n" for step, result in results.items())
    (LOGS / "summary.txt").write_text(summary)
    print(f"\n{summary}", end="")
    return 1 if re.search("FAILED|STOPPED", summary) else 0


if __name__ == "__main__":
    sys.exit(main())
