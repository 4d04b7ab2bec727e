"""Comparison with the exact value."""

import torch
from torch import Tensor

from .tolerances import TOLERANCES, Tolerance


def assert_matches(
    actual: Tensor,
    expected: Tensor,
    *,
    tolerance: Tolerance | None = None,
    scale: float = 0.0,
    what: str = "value",
) -> None:
    """Raise AssertionError unless `actual` is `expected` (float64) to the tolerance of its dtype.

    Shapes must be equal, and so must the places that are NaN, +inf or -inf. `tolerance`
    defaults to the one of its dtype; `scale` is the magnitude of terms that may cancel.
    """
    __tracebackhide__ = True
    if actual.shape != expected.shape:
        raise AssertionError(
            f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        )
    tolerance = tolerance or TOLERANCES[actual.dtype]
    a, e = actual.detach().cpu().double(), expected.detach().cpu().double()
    representable = e.abs() <= torch.finfo(tolerance.dtype).max
    e = torch.where(representable | e.isnan(), e, e.sign() * torch.inf)
    finite = e.isfinite()
    same = torch.where(finite, a.isfinite(), (a == e) | (a.isnan() & e.isnan()))
    if not bool(same.all()):
        i = _first(~same)
        raise AssertionError(f"{what}: got {a[i].item()}, expected {e[i].item()} at {i}")
    a, e = a[finite], e[finite]
    error, bound = (a - e).abs(), tolerance.bound(e, scale)
    if bool((error > bound).any()):
        worst = int((error / bound).argmax())
        raise AssertionError(
            f"{what}: error {error[worst].item():.3g} is {(error / bound)[worst].item():.2f} times "
            f"the bound; got {a[worst].item():.9g}, expected {e[worst].item():.9g} "
            f"(finite element {worst} of {len(e)})"
        )
    floor = torch.finfo(tolerance.dtype).smallest_normal * len(e) ** 0.5 + tolerance.l2 * scale
    if error.norm() > tolerance.l2 * e.norm() + floor:
        raise AssertionError(
            f"{what}: relative L2 error {(error.norm() / e.norm()).item():.3g} exceeds "
            f"{tolerance.l2:.3g}"
        )


def _first(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero()[0].tolist())
