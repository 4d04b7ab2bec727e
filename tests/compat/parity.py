"""Compare a mirrored loss with the library's own, in value and in every gradient.

The truth is the library's class in float64 on the inputs as rounded to the dtype under test. Our
error may be twice the error the library makes in that dtype, or what the tolerance table allows.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastloss.testing import TOLERANCES


def assert_parity(
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    *args: Any,
    dtype: torch.dtype = torch.float32,
    scale: float = 0.0,
    rounds: bool = False,
    **kwargs: Any,
) -> None:
    """Call both with the same arguments; compare values and the gradients of all float tensors.

    `scale` is the size of the terms where a result near 0 is the difference of larger ones (1 for
    an IoU near 1). `rounds`: the mirrored loss, as the library, takes labels and weights in
    float32, whatever the scores are.
    """
    args, kwargs = _cast((args, kwargs), dtype)
    value, gradients = _evaluate(ours, args, kwargs)
    if dtype != torch.float64:
        library, library_gradients = _evaluate(theirs, args, kwargs)
    with contextlib.nullcontext() if rounds else _exact_float():
        truth, true_gradients = _evaluate(theirs, *_cast((args, kwargs), torch.float64))
    if dtype == torch.float64:
        library, library_gradients = truth, true_gradients
    assert value.shape == truth.shape
    assert value.dtype in (dtype, torch.float32) if dtype.itemsize < 4 else value.dtype == dtype
    assert_as_exact(value, library, truth, dtype, scale)
    for gradient, library_gradient, true_gradient in zip(
        gradients, library_gradients, true_gradients, strict=True
    ):
        assert_as_exact(gradient, library_gradient, true_gradient, dtype, scale)


def assert_as_exact(
    actual: Tensor, library: Tensor, truth: Tensor, dtype: torch.dtype, scale: float = 0.0
) -> None:
    """`actual` is as near to `truth` as what the library returns, or as the table asks."""
    actual, library, truth = actual.double(), library.double(), truth.double()
    assert torch.equal(actual.isnan(), truth.isnan()), f"got {actual}, expected {truth}"
    finite = truth.isfinite()
    actual, library, truth = actual[finite], library[finite], truth[finite]
    tolerance = TOLERANCES[dtype]
    bound = tolerance.bound(truth) + tolerance.bound(torch.full_like(truth, scale)) * (scale > 0)
    # Twice: the result and its product with loss_weight are rounded one after the other.
    bound = 2 * bound.maximum((library - truth).abs().nan_to_num(0))
    wrong = ~((actual - truth).abs() <= bound)
    assert not wrong.any(), f"got {actual[wrong]}, expected {truth[wrong]}, bound {bound[wrong]}"


@contextlib.contextmanager
def _exact_float() -> Iterator[None]:
    """`Tensor.float`, with which mmdet casts labels and weights, rounds nothing to float32."""
    original = Tensor.float
    Tensor.float = Tensor.double
    try:
        yield
    finally:
        Tensor.float = original


def _evaluate(
    loss: Callable[..., Tensor], args: tuple, kwargs: dict[str, Any]
) -> tuple[Tensor, list[Tensor]]:
    """Value, and the gradients of all float tensors in the arguments (zero where unused)."""
    args, kwargs = copy.deepcopy((args, kwargs))
    leaves = [
        x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.is_floating_point()
    ]
    before = [leaf.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.requires_grad_()
    value = loss(*args, **kwargs)
    for leaf, copied in zip(leaves, before, strict=True):
        assert torch.equal(leaf, copied), "an argument was modified"
    if not value.requires_grad:  # mmdet cuts the graph for empty boxes
        return value.detach(), [torch.zeros_like(leaf) for leaf in leaves]
    # An uneven gradient from above, so that elements cannot be confused.
    above = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).to(value.dtype)
    gradients = torch.autograd.grad(
        value, leaves, above.reshape(value.shape), allow_unused=True, materialize_grads=True
    )
    return value.detach(), list(gradients)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    """Every float tensor in nested tuples and dicts rounded to `dtype`; strides are kept."""
    if isinstance(tree, Tensor) and tree.is_floating_point():
        return tree.detach().to(dtype)
    if isinstance(tree, tuple):
        return tuple(_cast(x, dtype) for x in tree)
    if isinstance(tree, dict):
        return {key: _cast(x, dtype) for key, x in tree.items()}
    return tree
