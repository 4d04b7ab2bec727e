"""`python -m fastloss`: what runs on this machine, and whether its numbers are right."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ._cli import info, selftest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastloss", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    text = "versions, binaries, and which implementation of each op runs where, or why not"
    inform = commands.add_parser("info", help=text, description=text)
    inform.add_argument("--json", action="store_true", help="print JSON")
    text = "compare every op, forward and backward, with the float64 reference on this machine"
    test = commands.add_parser("selftest", help=text, description=text)
    test.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cpu, and cuda where there is one"
    )
    test.add_argument("--quick", action="store_true", help="float32 and small inputs only")
    test.add_argument(
        "--record",
        type=Path,
        metavar="PATH",
        help="note the ops that passed on the GPU in this JSON",
    )
    test.add_argument("--commit", metavar="HASH", help="what to record where there is no git")
    options = parser.parse_args(arguments)
    if options.command == "info":
        return info.main(options.json)
    devices = (options.device,) if options.device else selftest.devices()
    if "cuda" in devices and "cuda" not in selftest.devices():
        test.error("torch finds no CUDA device")
    if options.record and (options.quick or "cuda" not in devices):
        test.error("--record needs a CUDA device and the whole selftest")
    return selftest.main(devices, options.quick, options.record, options.commit)


if __name__ == "__main__":
    sys.exit(main())
