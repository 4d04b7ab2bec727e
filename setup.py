"""Builds the Python package, and inside it the shared objects that this machine can compile.

FASTLOSS_CPP and FASTLOSS_CUDA are auto (build if possible), 0 (leave out) or 1 (fail if it cannot).
What was built, or why not, is kept in _build_info.json and shown by `python -m fastloss info`.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ModuleNotFoundError:  # setuptools before 70.1, which Python 3.10 and 3.11 bring along
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))  # pip does not put the project's folder on the path.

import toolchain  # noqa: E402
from toolchain import Unavailable, build_cpu, build_cuda  # noqa: E402

VERSION = (ROOT / "fastloss" / "_version.py").read_text().split('"')[1]
BUILDING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install"}


def decide(switch: str, pattern: str, require: Callable[[], None]) -> tuple[list[str], str]:
    """The sources to build and "built", or no sources and the reason."""
    value = os.environ.get(switch) or "auto"
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"fastloss: {switch} must be auto, 0 or 1, got {value!r}")
    if value == "0":
        return [], f"{switch}=0 left it out"
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
    try:
        if not sources:
            raise Unavailable(f"this version has no {pattern}")
        require()
    except Unavailable as reason:
        if value == "1":
            raise SystemExit(f"fastloss: {switch}=1 cannot be met: {reason}") from None
        return [], str(reason)
    return sources, "built"


def plan() -> tuple[list[Extension], dict[str, str]]:
    """The extensions to build here, and the record of what is built, with what, or why not."""
    cpp, cpp_state = decide("FASTLOSS_CPP", "csrc/cpu/*.cpp", toolchain.require_cpp)
    cuda, cuda_state = decide("FASTLOSS_CUDA", "csrc/cuda/*.cu", toolchain.require_cuda)
    info = {"version": VERSION, "torch": toolchain.torch_version(), "cpp": cpp_state}
    info |= {"cuda": cuda_state, "compiler": "", "isa": platform.machine()}
    if cpp or cuda:
        argv = [*toolchain.find_compiler(), "--version"]
        said = subprocess.run(argv, capture_output=True, check=True, text=True).stdout
        info["compiler"] = said.partition("\n")[0]
    print(f"fastloss: C++ kernels: {cpp_state}; CUDA kernels: {cuda_state}", file=sys.stderr)
    objects = {"fastloss._C": cpp, "fastloss._C_cuda": cuda}
    return [Extension(name, files) for name, files in objects.items() if files], info


class Build(build):
    # build_ext runs even with nothing to compile: it writes the record and removes stale objects.
    sub_commands = [
        (name, None if name == "build_ext" else when) for name, when in build.sub_commands
    ]


class BuildExt(build_ext):
    info: dict[str, str] = {}

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"  # These are no Python modules: no ABI suffix.

    def build_extension(self, ext: Extension) -> None:
        built = ROOT / "build" / "native" / Path(self.get_ext_filename(ext.name)).name
        if ext.name == "fastloss._C":
            build_cpu(ext.sources, built)
        else:
            build_cuda(ext.sources, built, toolchain.cuda_arches())
        target = self.get_ext_fullpath(ext.name)
        self.mkpath(str(Path(target).parent))
        self.copy_file(str(built), target)

    def run(self) -> None:
        super().run()
        folder = ROOT / "fastloss" if self.inplace else Path(self.build_lib, "fastloss")
        self.mkpath(str(folder))
        for name in {"fastloss._C", "fastloss._C_cuda"} - {ext.name for ext in self.extensions}:
            folder.parent.joinpath(self.get_ext_filename(name)).unlink(missing_ok=True)
        # With these, import recognises a damaged object, which would crash the process when loaded.
        files = [Path(folder.parent, self.get_ext_filename(ext.name)) for ext in self.extensions]
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        record = json.dumps({**self.info, "sha256": digests}, indent=2)
        (folder / "_build_info.json").write_text(record + "\n")


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]  # The objects hold no Python symbol.


if __name__ == "__main__":
    extensions, BuildExt.info = plan() if BUILDING.intersection(sys.argv) else ([], {})
    setup(
        license="BSD-3-Clause",
        packages=sorted({*find_packages(include=["fastloss", "fastloss.*"]), "fastloss._triton"}),
        package_dir={"fastloss._triton": "triton_kernels/fastloss_triton"},
        ext_modules=extensions,
        cmdclass={"build": Build, "build_ext": BuildExt, "bdist_wheel": Wheel},
    )
