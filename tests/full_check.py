"""All checks that need no GPU, one after the other:
python tests/full_check.py [cases a stem] [options of pytest for the test suite]

Every step runs, whatever became of the ones before it; a table of what passed ends the run and is
kept in build/full-check/summary.txt beside the output of each step.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "full-check"
CASES = sys.argv[1] if len(sys.argv) > 1 else "2000"
APART = {
    "AOT compile": "tests/test_triton_compile.py",
    "second torch": "tests/packaging/test_second_torch.py",
    "second Triton": "tests/packaging/test_second_triton.py",
    "install variants": "tests/packaging",
    "dispatch": "tests/native/test_dispatch.py",
}
LONG = [sys.executable, "-m", "pytest", "-m", "full", "-v"]


def steps() -> dict[str, list[str]]:
    """The command of each step; the last one has the long tests that no other step names."""
    others = [f"--ignore={path}" for path in APART.values()]
    second = [f"--ignore={APART[name]}" for name in ("second torch", "second Triton")]
    commands = {
        "test suite": [sys.executable, "-m", "pytest", *sys.argv[2:]],
        "sanitizers": [sys.executable, "tests/corpus/sanitize.py", CASES],
    }
    commands |= {name: [*LONG, path] for name, path in APART.items()}
    commands["install variants"] += second
    return commands | {"other long tests": [*LONG, *others]}


def run(command: list[str], log: Path) -> tuple[int, str]:
    """The exit code, and the last line that counts passed tests; the output is shown and kept."""
    counts = "no test ran"
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    with log.open("w") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            if match := re.search(r"(\d+ (?:passed|failed|skipped|error).*) in [\d.]+s", line):
                counts = re.sub(r", \d+ (deselected|warnings?)", "", match[1])
    return process.wait(), counts


def main() -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    for name, command in steps().items():
        print(f"\n== {name}: {' '.join(command)}", flush=True)
        begun = time.monotonic()
        code, counts = run(command, LOGS / f"{name.replace(' ', '-')}.log")
        nothing = "passed" not in counts  # what a step needs did not install
        failed |= code != 0 or nothing
        state = "FAILED" if code else "SKIPPED" if nothing else "ok"
        rows.append(f"{name:<18}{state:<8}{time.monotonic() - begun:6.0f} s  {counts}\n")
    summary = f"{CASES} random calls a stem under the sanitizers\n{''.join(rows)}"
    (LOGS / "summary.txt").write_text(summary)
    print(f"\n{summary}", end="")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
