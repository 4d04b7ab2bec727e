"""Fetch one labelled microscopy picture, once, and keep it on disk.

The picture is a fluorescence image of nuclei with an instance mask, from the 2018 Data Science Bowl
(Caicedo et al., "Nucleus segmentation across imaging experiments", Nature Methods 16, 2019). The
stardist package (BSD-3-Clause, Schmidt and Weigert) carries it inside its wheel. The wheel is used
as an archive: it is downloaded, checked and unzipped, never installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

IMAGE, MASK = "img2d.tif", "mask2d.tif"

_PACKAGE = "stardist==0.9.2"
# One fixed wheel, so that every machine and every Python gets the same bytes.
_TAGS = (
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
)
_SHA256 = "2316c0feb7bd5621e7a277cb3868df475c338943c591925c420ee3622c42f023"


class DataError(RuntimeError):
    """The picture could not be fetched, or is not the one expected."""


def fetch(folder: Path) -> None:
    """Leave the image and its mask in `folder`; does nothing when both are already there."""
    if (folder / IMAGE).is_file() and (folder / MASK).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    # The temporary folder lies inside `folder` so that the final rename stays on one file system.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
        wheel = _download(Path(scratch), folder)
        unpack(wheel, folder)


def unpack(wheel: Path, folder: Path, sha256: str = _SHA256) -> None:
    """Check the wheel against `sha256`, then move its two pictures into `folder`."""
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if got != sha256:
        raise DataError(
            f"{wheel.name} has sha256 {got}, expected {sha256}: the download is damaged or is not "
            "the published file; nothing was unpacked"
        )
    with zipfile.ZipFile(wheel) as archive:
        for name in (IMAGE, MASK):
            part = wheel.parent / name
            part.write_bytes(archive.read(f"stardist/data/images/{name}"))
            os.replace(part, folder / name)


def _download(scratch: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--no-deps", "--only-binary=:all:", *_TAGS, f"--dest={scratch}", _PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        reason = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise DataError(
            f"cannot download {_PACKAGE}, which holds the example picture "
            f"(pip: {reason[-1] if reason else 'no output'}). With a network, run this again; "
            f"without one, put {IMAGE} and {MASK} into {folder}"
        )
    return wheels[0]
