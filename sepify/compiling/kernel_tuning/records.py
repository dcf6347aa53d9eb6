"""What was measured, one JSON object a line of `kernels.jsonl`.

Lines are only ever appended, each in one write, so that a kill at any byte costs one line at most;
two files are merged by concatenating them. A line says for which target and versions it holds:
others are left alone, and never used.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.errors import FileError
from sepify.storage import append_line, decode, parse_lines, read_lines

FILE_NAME = "kernels.jsonl"
# of the kernels: raised when the same knobs give other code, or when the default knobs change, to
# which every time is relative
GENERATION = 5
# What a kernel alone wins by less than this, its network does not: neighbours, caches and chance
# decide there. Knobs that chance chose made networks 1 to 3 % slower (see benchmarks/README.md).
_MOST = 2**31  # of a knob
DECISIVE = 0.97  # of the default knobs' time


@dataclass(frozen=True)
class Record:
    """One measured candidate: its time in seconds, and that over the default knobs' in the same
    minute; or why it has none."""

    knobs: Knobs
    seconds: float | None
    relative: float | None
    error: str | None = None


def gained(relative: float) -> float:
    """Time over the default's that a candidate is worth: 1 unless it is decidedly faster."""
    return relative if relative < DECISIVE else 1.0


class Records:
    """The records of one target and set of versions, and how many there are of others."""

    def __init__(self, folder: Path, target: dict[str, Any], versions: dict[str, str]) -> None:
        """Raises FileError if the file exists and cannot be read."""
        self.path = folder / FILE_NAME
        self._target = target
        self._versions = {**versions, "kernels": str(GENERATION)}
        self._found: dict[str, dict[Knobs, Record]] = {}
        self.of_other_versions = 0
        self.damaged = parse_lines(read_lines(self.path), self._read)  # numbers of lines

    def measured(self, workload: Workload) -> dict[Knobs, Record]:
        """Every candidate that was tried."""
        return dict(self._found.get(workload.key, {}))

    def best(self, workload: Workload) -> Knobs | None:
        """The fastest candidate; where none is decidedly faster, the one whose time is nearest to
        the default's: the default, or as good. None if none was ever timed."""
        timed = [
            (gained(r.relative), abs(r.relative - 1), index, r.knobs)
            for index, r in enumerate(self.measured(workload).values())
            if r.relative is not None
        ]
        return min(timed)[-1] if timed else None

    def add(self, workload: Workload, record: Record) -> None:
        """Keep a record, in the file too. Raises FileError if that cannot be written."""
        line = {
            "target": self._target,
            "versions": self._versions,
            "workload": json.loads(workload.key),
            **asdict(record),
        }
        append_line(self.path, json.dumps(line, sort_keys=True, allow_nan=False))
        self._found.setdefault(workload.key, {})[record.knobs] = record

    def _read(self, value: Any, _line: str) -> None:
        """Take a record in. Raises FileError or KeyError for one that is damaged."""
        target, versions = value.pop("target"), value.pop("versions")
        workload = decode(dict[str, Any], value.pop("workload"), "workload")
        key = json.dumps(workload, sort_keys=True, separators=(",", ":"))
        record = decode(Record, value, "record")
        least = dict.fromkeys(asdict(record.knobs), 1) | {"winograd": 0}
        if not all(least[n] <= knob < _MOST for n, knob in asdict(record.knobs).items()):
            raise FileError("a knob is above 0")
        if any(time is not None and time <= 0 for time in (record.seconds, record.relative)):
            raise FileError("a time is above 0")
        if target != self._target:
            return
        if versions != self._versions:
            self.of_other_versions += 1
            return
        self._found.setdefault(key, {})[record.knobs] = record
