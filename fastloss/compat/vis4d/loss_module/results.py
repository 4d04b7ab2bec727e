"""What a loss returns, as values by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def by_name(name: str, result: Any) -> dict[str, Any]:
    """A tensor under `name`; entries of a dict under "name.key" or, nested, "name.key.subkey";
    fields of a named tuple under "name.field". None has no values.

    ValueError: another result, or a dict that holds something else than tensors and dicts.
    TypeError: a key that is not a string.
    """
    if isinstance(result, Tensor):
        return {name: result}
    if isinstance(result, dict):
        return _flattened(name, result)
    if isinstance(result, tuple) and hasattr(result, "_asdict") and hasattr(result, "_fields"):
        return {f"{name}.{field}": value for field, value in zip(result._fields, result)}
    if result is None:
        return {}
    raise ValueError(
        f"the loss {name!r} must return a tensor, a dict or a named tuple of tensors, or None, "
        f"got {type(result).__name__}"
    )


def _flattened(prefix: str, values: dict[str, Any]) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise TypeError(f"a loss must return dicts with names as keys, got {key!r} in {prefix}")
        path = f"{prefix}.{key}"
        if isinstance(value, Tensor):
            flat[path] = value
        elif isinstance(value, dict):
            flat.update(_flattened(path, value))
        else:
            raise ValueError(
                f"a loss must return tensors or dicts of them, got {type(value).__name__} at {path}"
            )
    return flat
