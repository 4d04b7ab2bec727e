"""Weighting and reduction shared by every loss with an unreduced value per element.

With unreduced values l_i (i over the n elements), weights w_i (1 if not given) and a divisor d:

    none   w_i l_i
    sum    sum_i w_i l_i
    mean   sum_i w_i l_i / d,   d = avg_factor (0-d tensor), else divisor (number), else n

and 0 for n = 0 unless a divisor was given. Sums are taken in float32 for half inputs (float64 for
float64) and the result is returned in `dtype`.
"""

import torch
from torch import Tensor


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float32 for half precision, the tensor's own dtype otherwise."""
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype


def result_dtype(tensor: Tensor, widen: bool) -> torch.dtype:
    """The input's dtype; float32 for half precision when `widen` (under autocast)."""
    return compute_dtype(tensor) if widen else tensor.dtype


def _divide(total: Tensor, avg_factor: Tensor | None, divisor: float | None, count: int) -> Tensor:
    if avg_factor is not None:
        return total / avg_factor.to(total.dtype)
    return total / (divisor if divisor is not None else max(count, 1))


def reduce(
    loss: Tensor,
    weight: Tensor | None,
    avg_factor: Tensor | None,
    divisor: float | None,
    reduction: str,
    count: int,
    dtype: torch.dtype,
) -> Tensor:
    """Weighted, reduced loss; `count` is n."""
    if weight is not None:
        loss = loss * weight.to(loss.dtype)
    if reduction == "none":
        return loss.to(dtype).contiguous()
    loss = loss.sum()
    if reduction == "mean":
        loss = _divide(loss, avg_factor, divisor, count)
    return loss.to(dtype)


def spread(
    grad: Tensor,
    loss: Tensor,
    avg_factor: Tensor | None,
    divisor: float | None,
    reduction: str,
    count: int,
) -> Tensor:
    """Gradient of the result with respect to each weighted element, in the shape of `loss`."""
    grad = grad.to(loss.dtype)
    if reduction == "mean":
        grad = _divide(grad, avg_factor, divisor, count)
    return grad.expand(loss.shape)


def gradients(needs: int, like: Tensor, *values: tuple[Tensor | None, torch.dtype]) -> list[Tensor]:
    """Cast the gradients asked for by the bits of `needs`; the others become empty tensors."""
    return [
        value.to(dtype).contiguous() if needs >> i & 1 and value is not None else like.new_empty(0)
        for i, (value, dtype) in enumerate(values)
    ]
