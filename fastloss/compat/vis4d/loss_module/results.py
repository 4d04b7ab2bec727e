"""What a loss returns, as values by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def by_name(name: str, result: Any) -> dict[str, Any]:
    """A tensor under `name`; entries of a dict under "name.key" or, nested, "name.key.subkey";
    fields of a named tuple under "name.field". Anything else has no values.

    ValueError: a dict holds something else than tensors and dicts.
    """
    if isinstance(result, Tensor):
        return {name: result}
    if isinstance(result, dict):
        return _flattened(name, result)
    if isinstance(result, tuple) and hasattr(result, "_asdict") and hasattr(result, "_fields"):
        return {f"{name}.{field}": value for field, value in zip(result._fields, result)}
    return {}


def _flattened(prefix: str, values: dict[str, Any]) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, value in values.items():
        path = prefix + "." + key
        if isinstance(value, Tensor):
            flat[path] = value
        elif isinstance(value, dict):
            flat.update(_flattened(path, value))
        else:
            raise ValueError(
                f"a loss must return tensors or dicts of them, got {type(value).__name__} at {path}"
            )
    return flat
