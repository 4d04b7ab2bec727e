"""Inputs for every public loss, one generator per stem.

A generic test runs over `samples()`; a new op gets all of them by adding one file here.
"""

import importlib
import pkgutil
from collections.abc import Iterator

from .sample import Sample


def samples(stem: str | None = None, tag: str | None = None) -> Iterator[Sample]:
    """The samples of one stem, or of all; only those with `tag` if it is given."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "sample" and stem in (None, module.name):
            for sample in importlib.import_module(f"{__name__}.{module.name}").samples():
                if tag is None or tag in sample.tags:
                    yield sample


__all__ = ["Sample", "samples"]
