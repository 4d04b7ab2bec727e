"""Inputs for every public loss, one generator per stem.

A generic test runs over `samples()`; a new op gets all of them by adding one file here.
"""

import functools
import importlib
import pkgutil

from .sample import Sample


def samples(stem: str | None = None, tag: str | None = None) -> list[Sample]:
    """The samples of one stem, or of all; only those with `tag` if it is given."""
    stems = [m.name for m in pkgutil.iter_modules(__path__) if m.name != "sample"]
    chosen = [s for name in stems if stem in (None, name) for s in _of(name)]
    return [s for s in chosen if tag is None or tag in s.tags]


@functools.cache  # A second of work for all of them, which a dozen test files ask for.
def _of(stem: str) -> list[Sample]:
    return list(importlib.import_module(f"{__name__}.{stem}").samples())


__all__ = ["Sample", "samples"]
