"""A small picture with its mask for the examples, named as the real one."""

from pathlib import Path

import numpy as np
import tifffile


def write(folder: Path) -> Path:
    """Bright discs on a dark ground, 128 x 192 pixels; the folder."""
    rows, columns = np.mgrid[:128, :192]
    mask = np.zeros(rows.shape, dtype=np.uint16)
    for index, (y, x) in enumerate(((y, x) for y in (20, 60, 100) for x in range(16, 192, 32)), 1):
        mask[(rows - y) ** 2 + (columns - x) ** 2 < 100] = index
    noise = np.random.default_rng(0).integers(0, 20, mask.shape)
    folder.mkdir()
    tifffile.imwrite(folder / "img2d.tif", (noise + 100 * (mask > 0)).astype(np.uint16))
    tifffile.imwrite(folder / "mask2d.tif", mask)
    return folder
