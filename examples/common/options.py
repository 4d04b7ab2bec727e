"""The command line of the examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

_HERE = Path(__file__).resolve().parents[1]


def parse(
    arguments: list[str] | None, description: str, steps: int, losses: Sequence[str] = ()
) -> argparse.Namespace:
    """Ends the program with a message where the arguments cannot be used. `losses` to choose from,
    if there are several; the first is the default."""
    parser = argparse.ArgumentParser(description=description)
    if losses:
        parser.add_argument("--loss", choices=losses, default=losses[0], help=f"({losses[0]})")
    parser.add_argument("--seeds", type=_positive, default=3, help="runs of each variant (3)")
    parser.add_argument(
        "--steps", type=_positive, default=steps, help=f"steps of each run ({steps})"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    # One thread, as the benchmark: with more, other programs on the machine disturb the times.
    parser.add_argument("--threads", type=_positive, default=1, help="CPU threads of torch (1)")
    parser.add_argument("--output", type=Path, default=_HERE / "output", help="for the pictures")
    parser.add_argument(
        "--data",
        type=Path,
        default=_HERE / "data",
        help="folder of img2d.tif and mask2d.tif; fetched if they are not there",
    )
    parser.add_argument("--no-bench", action="store_true", help="leave out the large-batch table")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no CUDA GPU")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
