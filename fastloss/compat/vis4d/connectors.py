"""LossConnector and its keys (vis4d 1.0.0, engine/connectors)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict


class _Source(TypedDict):
    key: str
    source: str


class SourceKeyDescription(_Source, total=False):
    """Where an argument comes from: `key` in `source`, "data" (the batch) or "prediction" (what the
    model returned); `sensors`, optional, names sensors of the data, which `LossConnector` ignores.
    """

    sensors: Sequence[str]


def data_key(key: str, sensors: Sequence[str] | None = None) -> SourceKeyDescription:
    """The entry `key` of the batch."""
    if sensors is None:
        return SourceKeyDescription(key=key, source="data")
    return SourceKeyDescription(key=key, source="data", sensors=sensors)


def pred_key(key: str) -> SourceKeyDescription:
    """The entry `key` of the prediction; "a.b" is b in a."""
    return SourceKeyDescription(key=key, source="prediction")


class LossConnector:
    """Chooses the arguments of a loss from the prediction of a model and its batch.

    Args:
        key_mapping: name of the argument -> where it comes from, `pred_key` or `data_key`.

    Call: ``connector(prediction, data)`` -> {name of the argument: value}. A data key is an entry
    of `data`. A prediction key is split at its dots, and followed through mappings by entry and
    through named tuples (and what they hold) by attribute. ValueError: nothing is there, or the
    source is unknown.

    >>> connector = LossConnector({"input": pred_key("head.boxes"), "target": data_key("boxes")})
    >>> connector({"head": {"boxes": 1}}, {"boxes": 2})
    {'input': 1, 'target': 2}
    """

    def __init__(self, key_mapping: dict[str, SourceKeyDescription]) -> None:
        self.key_mapping = key_mapping

    def __call__(
        self, prediction: Mapping[str, Any] | NamedTuple, data: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The arguments by name."""
        arguments = {}
        for name, description in self.key_mapping.items():
            key, source = description["key"], description["source"]
            if source == "data":
                arguments[name] = _step(data, key, key, "data")
            elif source == "prediction":
                arguments[name] = _follow(prediction, key)
            else:
                raise ValueError(
                    f"the source of {name!r} must be 'data' or 'prediction', got {source!r}"
                )
        return arguments


def _follow(prediction: Any, path: str) -> Any:
    value, place = prediction, "prediction"
    for key in path.split("."):
        value, place = _step(value, key, path, place), f"{place}.{key}"
    return value


def _step(holder: Any, key: str, path: str, place: str) -> Any:
    """The entry or attribute `key` of `holder`, which was found at `place` on the way to `path`."""
    if isinstance(holder, Mapping):
        if key in holder:
            return holder[key]
        there = list(holder)
    else:
        if hasattr(holder, key):
            return getattr(holder, key)
        there = list(getattr(holder, "_fields", ()))
    raise ValueError(
        f"key {path!r}: there is no {key!r} in {place}, a {type(holder).__name__} with the keys "
        f"{there}"
    )
