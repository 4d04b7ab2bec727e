"""Losses and functions of other libraries, as eager baselines, where the test environment has
them."""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import partial

from bench.workloads import Function, Upstream


def load(upstream: Upstream) -> tuple[str, Function]:
    """(what it is, the function or the class built with reduction "mean"); ImportError where the
    library is not installed."""
    # The loader of the parity tests knows how to import a library without everything its losses do
    # not need.
    references = importlib.import_module("tests.compat.references")
    library = getattr(references, upstream.library)()
    found = getattr(library, upstream.name)
    if isinstance(found, type):
        call = found(reduction="mean", **upstream.options)
    else:
        call = partial(found, **upstream.options)
    version = importlib.metadata.version(upstream.library)
    return f"{upstream.library} {version} {upstream.name}", call
