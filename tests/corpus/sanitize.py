"""Runs the corpus on C++ kernels built with AddressSanitizer and UndefinedBehaviorSanitizer:
python tests/corpus/sanitize.py [cases a stem]

The build lies in build/asan together with a copy of the Python package that loads it; the installed
binary is left alone. A report ends the run; the case it came from is printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILT = ROOT / "build" / "asan"
sys.path.insert(0, str(ROOT / "csrc"))

import toolchain  # noqa: E402

# float-cast-overflow is not part of "undefined". The first finding ends the process.
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
FLAGS = ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZERS]
REPORTED = 86
# What defects.cpp does, and the words of the report.
DEFECTS = {
    "beyond_the_end": "heap-buffer-overflow",
    "beyond_the_stack": "stack-buffer-overflow",
    "overflow": "signed integer overflow",
    "shift": "shift exponent 64 is too large",
    "misaligned": "misaligned address",
    "not_an_integer": "outside the range of representable values",
}
CALL = "import ctypes, sys; getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])(8)"


def build() -> None:
    """Builds what changed, and renews the copy of the package."""
    sources = sorted(ROOT.glob("csrc/cpu/*.cpp"))
    toolchain.build_cpu(sources, BUILT / "kernels.so", FLAGS)
    compiler = [*toolchain.find_compiler(), *toolchain.CXX_FLAGS, *FLAGS]
    toolchain.run_ninja(compiler, [HERE / "defects.cpp"], FLAGS, BUILT / "defects.so")
    package = BUILT / "fastloss"
    shutil.rmtree(package, ignore_errors=True)
    left_out = shutil.ignore_patterns("*.so", "_build_info.json", "_triton", "__pycache__")
    shutil.copytree(ROOT / "fastloss", package, ignore=left_out)
    shutil.copy(BUILT / "kernels.so", package / "_C.so")


def environment(**more: str) -> dict[str, str]:
    """The libraries of the sanitizers come first, and with them that of C++ exceptions."""
    libraries = []
    for name in ("libasan.so", "libstdc++.so"):
        argv = [*toolchain.find_compiler(), f"-print-file-name={name}"]
        found = subprocess.run(argv, capture_output=True, check=True, text=True).stdout.strip()
        if not Path(found).is_absolute():
            raise toolchain.Unavailable(f"the compiler has no {name}")
        libraries.append(found)
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        # Python frees little at its end. The exit code tells a report from a failed test.
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode={REPORTED}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={REPORTED}",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def uncaught() -> list[str]:
    """The defects of defects.cpp that went unnoticed."""
    missed = []
    for name, words in DEFECTS.items():
        argv = [sys.executable, "-c", CALL, str(BUILT / "defects.so"), name]
        done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode != REPORTED or words not in done.stderr:
            missed.append(f"{name}: exit code {done.returncode}\n{done.stderr[-500:]}")
    return missed


def run_corpus(cases: int) -> int:
    """The exit code of the corpus with that many cases a stem; its output goes to the console."""
    last = BUILT / "last_case.txt"
    last.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--capture=sys"]
    argv += ["-c", str(ROOT / "pyproject.toml"), str(HERE / "test_corpus.py")]
    more = {"FASTLOSS_CASES": str(cases), "FASTLOSS_LAST_CASE": str(last)}
    # From this folder Python imports the copy of the package that lies in it.
    code = subprocess.run(
        argv, cwd=BUILT, env=environment(**more, FASTLOSS_PACKAGE=str(BUILT)), check=False
    ).returncode
    if code == REPORTED:
        print(f"The sanitizer's report, above, is of this case:\n{last.read_text()}")
    return code


def main() -> int:
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    try:
        environment()
        build()
    except toolchain.Unavailable as reason:
        print(f"The sanitized build needs a C++ compiler with the sanitizers: {reason}")
        return 1
    if missed := uncaught():
        print("The sanitizers did not catch:", *missed, sep="\n")
        return 1
    print(f"All {len(DEFECTS)} deliberate defects were caught; {cases} cases a stem follow.")
    return run_corpus(cases)


if __name__ == "__main__":
    sys.exit(main())
