"""Loss classes of other libraries, as eager baselines, where the test environment has them."""

from __future__ import annotations

import importlib
import importlib.metadata

from bench.workloads import Loss, Upstream


def load(upstream: Upstream) -> tuple[str, Loss]:
    """(what it is, the class built with reduction "mean"); ImportError where the library is not
    installed."""
    # The loader of the parity tests knows how to import a library without everything its losses do
    # not need.
    references = importlib.import_module("tests.compat.references")
    library = getattr(references, upstream.library)()
    module = getattr(library, upstream.name)(reduction="mean", **upstream.options)
    version = importlib.metadata.version(upstream.library)
    return f"{upstream.library} {version} {upstream.name}", module
