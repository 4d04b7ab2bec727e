"""Compile every Triton kernel ahead of time, without a GPU: python tests/aot.py [80 90].

The launches of the small samples are recorded with the kernels left out, and each distinct
specialisation is compiled for the compute capabilities given. Prints a line per kernel; exit status
1 if one does not compile.
"""

import argparse
import sys
from typing import Any

import torch
import triton
from fastloss._triton import _common
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastloss._library import OPS
from fastloss.testing import capture, samples

NAMES = {
    torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.int64: "i64",
}  # fmt: skip
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def specialisation(kernel: Any, args: tuple[Any, ...], constants: dict[str, Any]) -> dict[str, str]:
    """Argument name -> type, as the JIT would choose it for tensors aligned to 16 bytes."""
    types = [f"*{NAMES[a.dtype]}" if isinstance(a, torch.Tensor) else "i64" for a in args]
    known = dict(zip(kernel.arg_names, types)) | dict.fromkeys(constants, "constexpr")
    return {name: known[name] for name in kernel.arg_names}


def launches() -> dict[tuple[Any, ...], tuple[Any, dict[str, str], dict[str, Any]]]:
    """Every distinct launch of the small samples in every dtype."""
    found: dict[tuple[Any, ...], tuple[Any, dict[str, str], dict[str, Any]]] = {}

    def record(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
        types = specialisation(kernel, args, constants)
        key = (kernel.__name__, *types.items(), *map(str, constants.items()))
        found[key] = (kernel, types, constants)

    _common.launch = record
    chosen = {}
    for sample in samples(tag="small"):
        weighted = sample.inputs.get("weight") is not None
        key = (sample.function, *sorted(map(str, sample.options.items())), weighted)
        chosen[key] = sample
    for dtype in DTYPES:
        for sample in chosen.values() if dtype == torch.float32 else list(chosen.values())[::6]:
            with capture() as calls:
                sample.cast(dtype).run()
                sample.cast(dtype).run(only_first=True)
            for name, args in calls:
                OPS[name].implementations["triton"](*args)
    return found


def compile_one(kernel: Any, types: dict[str, str], constants: dict[str, Any], target: int) -> Any:
    names = list(types)
    aligned = {
        (names.index(n),): [["tt.divisibility", 16]] for n, t in types.items() if t[0] == "*"
    }
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs=aligned,
    )
    options = {"num_warps": _common.NUM_WARPS, "enable_fp_fusion": False}
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", type=int, default=[80, 90])
    parser.add_argument(
        "--most", type=int, help="compile at most that many specialisations, evenly chosen"
    )
    arguments = parser.parse_args()
    work = list(launches().values())
    step = max(1, len(work) // arguments.most) if arguments.most else 1
    failed = 0
    for kernel, types, constants in work[::step]:
        for target in arguments.targets:
            label = f"{kernel.__name__} sm_{target} {types[kernel.arg_names[0]]} {constants}"
            try:
                compiled = compile_one(kernel, types, constants, target)
            except Exception as error:  # a compiler error of any kind is what this looks for
                print(f"FAILED {label}: {type(error).__name__}: {error}")
                failed += 1
                continue
            print(f"compiled {label}, {compiled.metadata.shared} bytes shared")
    print(f"{len(work[::step]) * len(arguments.targets) - failed} compiled, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
