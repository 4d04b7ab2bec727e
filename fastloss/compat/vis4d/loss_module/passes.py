"""Losses in as few passes over their tensors as there can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastloss.compat._pixel_term import PixelTerm
from fastloss.compat.vis4d.loss_module.known import Candidate, candidate


class Pass(NamedTuple):
    """Names of the losses of one pass, or of one that was called itself, and what to say of it."""

    names: list[str]
    text: str

    def __str__(self) -> str:
        return f"{', '.join(self.names)}: {self.text}"


class _Shared:
    """Candidates that agree: (position of the loss, its arguments, the candidate)."""

    def __init__(self) -> None:
        self.members: list[tuple[int, Mapping[str, Any], Candidate]] = []
        self.why_alone = "no other known loss reads the same tensors"


def run(
    losses: Sequence[Mapping[str, Any]], output: Any, batch: Any
) -> tuple[list[Any], list[Pass]]:
    """What each loss returns, and how it was computed.

    Connectors, and losses that share nothing, are called in their order; losses that may share a
    pass after them. Nothing here keeps a tensor.
    """
    results: list[Any] = [None] * len(losses)
    passes: dict[int, Pass] = {}  # by the position of the first loss
    shared: list[_Shared] = []
    for position, definition in enumerate(losses):
        inputs = definition["connector"](output, batch)
        found = candidate(definition["loss"], inputs)
        if isinstance(found, Candidate):
            _join(shared, position, inputs, found)
        else:
            results[position] = definition["loss"](**inputs)
            passes[position] = Pass([definition["name"]], f"alone, {found}")
    for group in shared:
        position, inputs, first = group.members[0]
        names = [losses[position]["name"] for position, _, _ in group.members]
        if len(names) == 1:
            results[position] = losses[position]["loss"](**inputs)
            passes[position] = Pass(names, f"alone, {group.why_alone}")
            continue
        values = first.term.together([member.term for _, _, member in group.members])
        for (at, _, member), value in zip(group.members, values, strict=True):
            results[at] = member.result(value)
        kind = "logits" if isinstance(first.term, PixelTerm) else "elements"
        passes[position] = Pass(names, f"one pass over the {kind}")
    return results, [passes[position] for position in sorted(passes)]


def _join(
    shared: list[_Shared], position: int, inputs: Mapping[str, Any], found: Candidate
) -> None:
    """Add a candidate to the first group that it agrees with, or to one of its own."""
    why_not = None
    for group in shared:
        if not _same_tensors(group.members[0][2], found):
            continue
        why_not = next(
            filter(None, (_conflict(m.term, found.term) for _, _, m in group.members)), None
        )
        if why_not is None:
            group.members.append((position, inputs, found))
            return
        group.why_alone = why_not
    group = _Shared()
    group.why_alone = why_not or group.why_alone
    group.members.append((position, inputs, found))
    shared.append(group)


def _same_tensors(one: Candidate, other: Candidate) -> bool:
    """Whether both read the very same tensors in the same kind of pass."""
    same = all(a is b for a, b in zip(one.tensors, other.tensors))
    return same and type(one.term) is type(other.term)


def _conflict(one: Any, other: Any) -> str | None:
    """What the two terms would have one pass do in two ways."""
    wanted = other.reading()
    for name, value in one.reading().items():
        if name in wanted and wanted[name] != value:
            return f"another loss of the same tensors has {name} {value}, not {wanted[name]}"
    return None
