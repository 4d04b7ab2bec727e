"""Losses and functions of other libraries, as eager baselines, where the test environment has
them."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bench.workload import Function, Upstream

# Whose package has another name.
_PACKAGES = {"smp": "segmentation-models-pytorch", "vis4d_engine": "vis4d"}


def load(upstream: Sequence[Upstream]) -> tuple[str, Function]:
    """(what it is, the function or the class with its options, or the sum of several); ImportError
    where a library is not installed."""
    names, functions = zip(*map(_load, upstream), strict=True)

    def total(*args: Tensor, **named: object) -> Tensor:
        return sum(function(*args, **named) for function in functions)

    return " + ".join(names), functions[0] if len(functions) == 1 else total


def _load(upstream: Upstream) -> tuple[str, Function]:
    found = getattr(_library(upstream.library), upstream.name)
    is_class = isinstance(found, type)
    call = found(**upstream.options) if is_class else partial(found, **upstream.options)
    package = upstream.library.partition(".")[0]
    version = importlib.metadata.version(_PACKAGES.get(package, package))
    source = f"{upstream.library} {version} {upstream.name}"
    return source, partial(_added_up, call) if upstream.adds_up else call


def _added_up(call: Function, *args: Any, **named: Any) -> Tensor:
    return sum(pytree.tree_leaves(call(*args, **named)))


def _library(name: str) -> object:
    if name == "fastloss.compat.mmdet":
        from fastloss.compat import mmdet

        return mmdet
    if name == "torch":
        return torch.nn
    # The loader of the parity tests knows how to import a library without everything its losses do
    # not need.
    return getattr(importlib.import_module("tests.compat.references"), name)()
