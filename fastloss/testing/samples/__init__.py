"""Inputs for every public loss, one generator per stem.

A generic test runs over `samples()`; a new op gets all of them by adding one file here.
"""

import importlib
import pkgutil

from .sample import Sample


def samples(stem: str | None = None, tag: str | None = None) -> list[Sample]:
    """The samples of one stem, or of all; only those with `tag` if it is given."""
    stems = [m.name for m in pkgutil.iter_modules(__path__) if m.name != "sample"]
    modules = [
        importlib.import_module(f"{__name__}.{name}") for name in stems if stem in (None, name)
    ]
    return [s for module in modules for s in module.samples() if tag is None or tag in s.tags]


__all__ = ["Sample", "samples"]
