"""Checks and conversions that every loss makes once, at the front."""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def floating(name: str, value: Tensor) -> None:
    """Raise TypeError unless `value` is a floating-point tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")


def tensor_on(name: str, value: Tensor, like_name: str, like: Tensor) -> None:
    """Raise unless `value` is a real tensor on the device of `like`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {value.dtype}")
    if value.device != like.device:
        raise ValueError(
            f"{name} must be on the device of {like_name}, {like.device}, got {value.device}"
        )


def same_shape(name: str, value: Tensor, like_name: str, like: Tensor) -> None:
    """Raise ValueError unless both shapes are equal."""
    if value.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of {like_name}, {tuple(like.shape)}, "
            f"got {tuple(value.shape)}"
        )


def mask(name: str, value: Tensor, shape: Sequence[int], like_name: str, like: Tensor) -> None:
    """Raise unless `value` is a bool tensor of this shape on the device of `like`."""
    tensor_on(name, value, like_name, like)
    if value.dtype != torch.bool:
        raise TypeError(f"{name} must be of dtype torch.bool, got {value.dtype}")
    if value.shape != torch.Size(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")


def choice(name: str, value: str, options: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `options`."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")


def flag(name: str, value: bool) -> bool:
    """`value`; raise TypeError unless it is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")
    return value


def number(name: str, value: float) -> float:
    """`value` as a float; raise unless it is a finite number."""
    if isinstance(value, Tensor) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def numbers(name: str, value: Sequence[float]) -> list[float]:
    """`value` as a list of floats; raise unless it is a sequence of finite numbers."""
    if not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a tensor or numbers, got {type(value).__name__}")
    return [number(f"{name}[{i}]", x) for i, x in enumerate(value)]


_CONSTANTS: dict[tuple[tuple[float, ...], torch.device], Tensor] = {}


def constant(values: Sequence[float], like: Tensor) -> Tensor:
    """`values` as a float64 tensor on the device of `like`; not to be written to.

    The copy is made once: another at every call would wait for the device.
    """
    if torch.compiler.is_compiling():
        return torch.tensor(values, dtype=torch.float64, device=like.device)
    key = (tuple(values), like.device)
    if key not in _CONSTANTS:
        with torch.inference_mode(False):
            tensor = torch.tensor(values, dtype=torch.float64, device=like.device)
        if type(tensor) is not Tensor:  # of a tracer; it must not outlive it
            return tensor
        if len(_CONSTANTS) >= 256:
            _CONSTANTS.clear()
        _CONSTANTS[key] = tensor
    return _CONSTANTS[key]


def at_least(name: str, value: float, bound: float, *, strict: bool = False) -> float:
    """`value` as a float; raise unless it is finite and >= bound (> bound if strict)."""
    value = number(name, value)
    if not (value > bound if strict else value >= bound):
        raise ValueError(f"{name} must be {'>' if strict else '>='} {bound:g}, got {value}")
    return value


def promote(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in their common dtype, as torch's arithmetic would have it."""
    if first.dtype == second.dtype:
        return first, second
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)


def weight_like(
    weight: Tensor | None, shape: torch.Size, like_name: str, like: Tensor
) -> Tensor | None:
    """The weight, expanded (not copied) to the shape of the unreduced loss."""
    if weight is None:
        return None
    tensor_on("weight", weight, like_name, like)
    if weight.dtype not in FLOATING:
        weight = weight.to(like.dtype)
    if weight.shape == shape:
        return weight
    fits = weight.dim() <= len(shape) and all(
        w in (1, s) for w, s in zip(reversed(weight.shape), reversed(shape))
    )
    if not fits:
        raise ValueError(
            f"weight must broadcast to the unreduced loss of shape {tuple(shape)}, "
            f"got {tuple(weight.shape)}"
        )
    if weight.dtype in (torch.float16, torch.bfloat16):
        weight = weight.float()  # so that the gradient's sum over the expanded dims is in float32
    return weight.expand(shape)


def divisor(
    reduction: str, avg_factor: float | Tensor | None, like_name: str, like: Tensor
) -> tuple[Tensor | None, float | None]:
    """`avg_factor` as the op takes it: (0-d tensor or None, number or None)."""
    choice("reduction", reduction, REDUCTIONS)
    if avg_factor is None:
        return None, None
    if reduction == "sum":
        raise ValueError('avg_factor needs reduction "mean" or "none", got "sum"')
    if not isinstance(avg_factor, Tensor):
        return None, at_least("avg_factor", avg_factor, 0)
    if avg_factor.numel() != 1:
        raise ValueError(f"avg_factor must have one element, got shape {tuple(avg_factor.shape)}")
    if avg_factor.requires_grad:
        raise ValueError("avg_factor has no gradient here: pass avg_factor.detach()")
    tensor_on("avg_factor", avg_factor, like_name, like)
    if avg_factor.dtype not in FLOATING:
        avg_factor = avg_factor.to(torch.float32)
    return avg_factor.reshape(()), None


def under_autocast(tensor: Tensor) -> bool:
    """Whether results of half inputs shall be float32, as torch's own losses do under autocast."""
    kind = tensor.device.type
    return kind != "meta" and torch.is_autocast_enabled(kind)  # which raises for "meta"
