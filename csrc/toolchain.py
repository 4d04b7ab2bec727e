"""Finds the compilers and builds shared objects with ninja, for setup.py and for the tests.

CXX, CUDA_HOME, TORCH_CUDA_ARCH_LIST and MAX_JOBS mean what they mean to torch's own extensions.
"""

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = ["-std=c++20", "-O3", "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{HERE}"]
CXX_FLAGS = ["-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
CXX_FLAGS += ["-fopenmp-simd", *COMMON]
NVCC_FLAGS = ["-Xcompiler", "-fPIC,-fvisibility=hidden", "-DUSE_CUDA", "--threads", "2", *COMMON]
# As-needed linking would drop libtorch, through which alone the CUDA symbols are found.
LIBRARIES = ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
CUDA_LIBRARIES = ["-lcudart_static", "-lpthread", "-ldl", "-lrt"]
NINJA_RULES = """\
rule compile
  command = $argv
  depfile = $out.d
  deps = gcc
rule link
  command = $argv
"""


class Unavailable(Exception):
    """Why a shared object cannot be built here, and what to do about it."""


def torch_version() -> str:
    """The version of torch in the build environment, found without importing it; "" if none."""
    try:
        return importlib.metadata.version("torch") if importlib.util.find_spec("torch") else ""
    except importlib.metadata.PackageNotFoundError:  # A folder of that name is not the library.
        return ""


def find_torch() -> Path:
    version = torch_version()
    if not version:
        advice = "install torch first, then run pip with --no-build-isolation"
        raise Unavailable(f"there is no torch in the build environment; {advice}")
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 10):
        raise Unavailable(f"torch {version} has no stable C++ interface; install torch>=2.10")
    return Path(importlib.util.find_spec("torch").submodule_search_locations[0])


def find_ninja() -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
    if not (ninja := shutil.which("ninja", path=path)):
        raise Unavailable("ninja was not found; pip install ninja")
    return ninja


def checked(command: list[str], suffix: str, advice: str) -> list[str]:
    """The compiler's command, once it has preprocessed a standard header as C++20."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"probe{suffix}")
        source.write_text("#include <vector>\n")
        argv = [*command, "-std=c++20", "-E", str(source)]
        try:
            done = subprocess.run(argv, capture_output=True, check=False, text=True)
        except OSError as error:
            raise Unavailable(f"no {command[0]!r} was found ({error.strerror}); {advice}") from None
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or "no message"
        raise Unavailable(f"{command[0]!r} cannot preprocess C++20 ({said}); {advice}")
    return command


def find_compiler() -> list[str]:
    default = next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")
    command = shlex.split(os.environ.get("CXX") or default)
    return checked(command, ".cpp", "install g++ 11 or later, or set CXX")


def find_cuda() -> tuple[str, Path]:
    """nvcc, and the toolkit's folder as nvcc gives it, since nvcc may be a wrapper script."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = f"{home}/bin/nvcc" if home else shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    checked([nvcc], ".cu", "install the CUDA toolkit, or set CUDA_HOME")
    argv = [nvcc, "--dryrun", "-E", "-x", "cu", os.devnull]
    dry = subprocess.run(argv, capture_output=True, check=True, text=True)
    return nvcc, Path(re.search(r"TOP=(.*)", dry.stderr)[1].strip())


def require_cpp() -> None:
    """Raises Unavailable where build_cpp could not even start."""
    find_torch(), find_compiler(), find_ninja()


def require_cuda() -> None:
    """Raises Unavailable where build_cuda could not even start."""
    require_cpp(), find_cuda()


def cuda_arches() -> list[str]:
    return re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip() or "8.0;9.0+PTX")


def gencode(arches: Sequence[str]) -> list[str]:
    """nvcc's flags for entries such as 8.0 (machine code) and 9.0+PTX (machine code and PTX)."""
    flags = []
    for arch in arches:
        if not (match := re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", arch)):
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: expected entries like 9.0+PTX, got {arch!r}")
        number = match[1] + match[2]
        for kind in ("sm", "compute") if match[3] else ("sm",):
            flags += ["-gencode", f"arch=compute_{number},code={kind}_{number}"]
    return flags


def edge(rule: str, target: Path, sources: Sequence[Path], argv: Sequence) -> str:
    """One build statement, quoted twice: for the shell that ninja starts, and for ninja."""
    out, *names = (re.sub(r"([$: ])", r"$\1", str(path)) for path in (target, *sources))
    command = shlex.join(map(str, argv)).replace("$", "$$")
    return f"build {out}: {rule} {' '.join(names)}\n  argv = {command}\n"


def run_ninja(compiler: list[str], sources: Sequence, libraries: list[str], output: Path) -> None:
    """Compiles what changed into a folder beside the output, and links the output."""
    torch, folder = find_torch(), output.with_suffix("").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    objects, edges = [], []
    for source in (Path(source).resolve() for source in sources):
        target = folder / f"{source.name}.o"
        argv = [*compiler, f"-I{torch / 'include'}", "-MD", "-MF", f"{target}.d", "-c", source]
        edges.append(edge("compile", target, [source], [*argv, "-o", target]))
        objects.append(target)
    argv = [*find_compiler(), "-shared", *objects, "-o", output.resolve(), f"-L{torch / 'lib'}"]
    edges.append(edge("link", output.resolve(), objects, [*argv, *libraries]))
    (folder / "build.ninja").write_text(NINJA_RULES + "".join(edges))
    jobs = [f"-j{os.environ['MAX_JOBS']}"] if os.environ.get("MAX_JOBS") else []
    # -C keeps ninja's own records beside the objects.
    if subprocess.run([find_ninja(), "-C", str(folder), *jobs], check=False).returncode:
        advice = "FASTLOSS_CPP=0 FASTLOSS_CUDA=0 installs without compiled code"
        raise SystemExit(f"fastloss: {output.name} did not compile, see above; {advice}")


def build_cpu(sources: Sequence, output: Path, flags: Sequence[str] = ()) -> None:
    """Compiles C++ sources and links them as the shared object `output`, both with `flags`."""
    compiler = [*find_compiler(), *CXX_FLAGS, *flags]
    run_ninja(compiler, sources, [*LIBRARIES, *flags], Path(output))


def build_cuda(sources: Sequence, output: Path, arches: Sequence[str]) -> None:
    """Compiles CUDA sources for `arches` and links them; needs neither a CUDA torch nor a GPU."""
    nvcc, top = find_cuda()
    folders = [f"-L{top / name}" for name in ("lib64", "lib", "targets/x86_64-linux/lib")]
    compiler = [nvcc, *NVCC_FLAGS, *gencode(arches)]
    run_ninja(compiler, sources, [*LIBRARIES, *folders, *CUDA_LIBRARIES], Path(output))
