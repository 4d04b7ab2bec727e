"""The one table of tolerances, derived from the machine epsilons.

An actual value a of dtype D may differ from the exact value e (float64, from the same rounded
inputs) by

    |a - e| <= result * eps(D) * |e| + compute * eps(C) * (|e| + rms(e) + scale) + smallest(D)

C is the dtype the kernels compute in (float32 for half inputs), rms(e) the root mean square over
the tensor, scale the magnitude of terms that may cancel (0 if not given), smallest(D) the spacing
of subnormal numbers. `result` is one rounding; `compute` covers the longest chain of operations in
any formula (about 100 with divisions and a polynomial, errors mostly cancelling) and the sums,
which are taken in blocks. A tensor also keeps a bound on its relative L2 error, half as wide, which
sees many small errors in one direction that the first bound lets through.
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Tolerance:
    """Factors of the bound above for one dtype; `l2` and `bias` bound whole gradients."""

    dtype: torch.dtype
    compute_dtype: torch.dtype
    result: float = 1.0
    compute: float = 64.0

    @property
    def l2(self) -> float:
        """Bound on ||a - e|| / ||e||: half the pointwise one, rounding errors being independent."""
        eps, inner = torch.finfo(self.dtype).eps, torch.finfo(self.compute_dtype).eps
        return 0.5 * (self.result * eps + self.compute * inner)

    def truncated(self) -> "Tolerance":
        """For results that were cut off, not rounded, to bfloat16, as Triton's interpreter does."""
        return replace(self, result=2 * self.result)

    def bound(self, expected: torch.Tensor, scale: float = 0.0) -> torch.Tensor:
        """Largest allowed |a - e| for each element of the finite float64 tensor `expected`."""
        magnitude = expected.abs()
        rms = magnitude.square().mean().sqrt() if expected.numel() else magnitude.sum()
        info, inner = torch.finfo(self.dtype), torch.finfo(self.compute_dtype).eps
        smallest = info.smallest_normal * info.eps
        around = magnitude + rms + scale
        return self.result * info.eps * magnitude + self.compute * inner * around + smallest


TOLERANCES = {
    torch.float64: Tolerance(torch.float64, torch.float64),
    torch.float32: Tolerance(torch.float32, torch.float32),
    torch.bfloat16: Tolerance(torch.bfloat16, torch.float32),
    torch.float16: Tolerance(torch.float16, torch.float32),
}
