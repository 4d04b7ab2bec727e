"""One JSON object per line and contender; a newer record replaces the older one of the same key, in
its place."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

OK, WRONG, FAILED = "ok", "WRONG", "failed"


@dataclass(frozen=True)
class Record:
    suite: str
    stem: str
    workload: str
    contender: str
    source: str  # what the contender is: an upstream class, a function, an implementation
    status: str  # "ok", "WRONG" or "failed: reason"; only "ok" carries times
    size: str
    shape: tuple[int, ...]
    dtype: str
    threads: int
    device: str
    driver: str | None
    clock: str
    rounds: int
    commit: str
    fastloss: str
    torch: str
    triton: str | None
    date: str
    tolerance: float
    error: float | None = None  # largest relative L2 error of result and gradients, against float64
    iterations: int | None = None  # per round
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    wall_ms: float | None = None
    ratio: float | None = None  # times faster than eager
    best: str | None = None  # fastest contender that is not fastloss
    ratio_best: float | None = None  # times faster than that one
    scaling: float | None = None  # fastloss on several threads: times faster than itself on one
    peak_mb: float | None = None  # 1e6 bytes beyond the inputs
    floor_mb: float | None = None  # what has to be read and written, see `runner._blank`
    copy_gbps: float | None = None
    gbps: float | None = None
    percent_floor: float | None = None

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return self.workload, self.contender, self.size, self.dtype, self.threads

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in json.loads(line).items() if name in known}
        values["shape"] = tuple(values["shape"])
        return cls(**values)


def load(path: Path) -> list[Record]:
    if not path.exists():
        return []
    return [Record.from_json(line) for line in path.read_text().splitlines() if line.strip()]


def save(path: Path, new: Iterable[Record]) -> None:
    """Merges `new` into the file; a reader sees the old file or the new one, never half of one."""
    merged = {record.key: record for record in load(path)}
    merged.update((record.key, record) for record in new)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(path.suffix + ".part")
    draft.write_text("".join(record.to_json() + "\n" for record in merged.values()))
    os.replace(draft, path)
