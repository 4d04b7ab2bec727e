"""What is checked of a case, with whatever kernels the dispatcher chooses.

- The calls end with a result, or with IndexError where a class index is out of range.
- No input is written, nor the gaps between its elements.
- Forward alone, with a gradient for the first input, and with all gradients (three paths in
  `fastloss._autograd`) give the reference's values, as far as `Case.compare` says:
    "exactly"  tame inputs: the reference in float64, to the table of tolerances
    "alike"    special values among the inputs: the reference in the kernels' own precision; the
               same elements are finite and agree to about a per cent. The value is NaN and infinite
               in the same places too; a gradient at an infinite input is inf or 0 * inf as the
               order of a product has it.
    "value"    likewise, but the gradient is not defined, as that of -ln 0
    "nothing"  inputs for which the formula promises nothing, such as a probability of 2
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastloss.testing import Sample, Tolerance, assert_matches, implementation

Results = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A call, the layout of the gradient that comes in, and what may be compared."""

    sample: Sample
    upstream: Callable[[Tensor], Tensor]
    compare: str
    bad_index: bool = False


# The sanitized build has no vectors and adds up a block one by one: hundreds of equal small losses
# beside a large one all round one way, to 1.3 times the bound that holds with 16 partial sums.
COMPUTE = 2 * Tolerance.compute if "FASTLOSS_PACKAGE" in os.environ else Tolerance.compute


def _bytes(x: Tensor) -> Tensor:
    """The whole memory behind a tensor."""
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())


def _evaluate(case: Case, sample: Sample, leaves: list[str]) -> Results:
    """Value and gradients; the incoming gradient is positive and exact in every dtype."""
    inputs = {name: x.detach().requires_grad_() for name, x in sample.leaves().items()}
    inputs = {name: inputs[name] for name in leaves}
    value = sample(sample.bind(inputs))
    if not inputs:
        return {"value": value}
    steps = torch.arange(value.numel()).reshape(value.shape) % 3 + 1
    incoming = case.upstream((steps * 0.5).to(value.dtype))
    gradients = torch.autograd.grad(value, list(inputs.values()), incoming)
    return {"value": value.detach(), **dict(zip(inputs, gradients))}


def _paths(sample: Sample) -> list[list[str]]:
    names = list(sample.leaves())
    return [[], names[:1], names]


def check(case: Case) -> None:
    """Raise AssertionError where the kernels do anything but what is promised."""
    # A sanitizer ends the process: the last case is read from this file.
    if path := os.environ.get("FASTLOSS_LAST_CASE"):
        Path(path).write_text(repr(case))
    sample = case.sample
    memory: list[Tensor] = []
    sample.map(lambda x: memory.append(_bytes(x)))
    before = [x.clone() for x in memory]
    results = []
    for leaves in _paths(sample):
        with _refused(case.bad_index) if case.bad_index else contextlib.nullcontext():
            results.append(_evaluate(case, sample, leaves))
    for kept, now in zip(before, memory):
        if not torch.equal(kept, now):
            raise AssertionError("an input was written")
    if case.bad_index or case.compare == "nothing":
        return
    dtype = results[0]["value"].dtype
    inner = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    with implementation("reference"):
        precision = torch.float64 if case.compare == "exactly" else inner
        expected = _evaluate(case, sample.cast(precision), _paths(sample)[2])
    for result in results:
        for name, actual in result.items():
            if case.compare == "value" and name != "value":
                continue
            if case.compare != "exactly":
                _assert_alike(actual, expected[name].to(actual.dtype), name)
            else:
                # The gradient of an expanded weight is summed in the dtype of the weight.
                both_double = actual.dtype == dtype == torch.float64
                sums = torch.float64 if both_double else torch.float32
                tolerance = Tolerance(actual.dtype, sums, compute=COMPUTE)
                assert_matches(
                    actual, expected[name], tolerance=tolerance, scale=sample.scale, what=name
                )


@contextlib.contextmanager
def _refused(bad_index: bool):
    try:
        yield
    except IndexError:
        return
    raise AssertionError("a class index out of range was accepted")


def _assert_alike(actual: Tensor, expected: Tensor, what: str) -> None:
    if what != "value":
        actual, expected = (x.masked_fill(~x.isfinite(), torch.nan) for x in (actual, expected))
    torch.testing.assert_close(
        actual, expected, rtol=0.01, atol=1e-3, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )
