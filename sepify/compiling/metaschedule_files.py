"""MetaSchedule's two files of tuning records: one tuner at a time, mended after a kill, merged.

One file has a workload a line, the other measurements, each with the number of its workload's line.
"""

from __future__ import annotations

import fcntl
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sepify.errors import DatabaseWarning
from sepify.storage import (
    damaged_lines,
    parse_lines,
    read_lines,
    require_writable,
    write_text,
)

Measured = tuple[int, str]
RECORDS = "database_tuning_record.json"
WORKLOADS = "database_workload.json"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """One process at a time, which finds the files whole: two would mix their records up. Raises
    FileError if the folder cannot be written."""
    require_writable(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _repair(folder)
        yield


def merge_records(source: Path, destination: Path) -> int:
    """Add to the files in `destination` what those in `source` have and they do not; how many
    measurements that were. Raises FileError."""
    theirs, measured = _whole(source)
    with exclusive(destination):
        workloads, records = _whole(destination)
        numbers = {_hash(line): index for index, line in enumerate(workloads)}
        known, before = set(records), len(records)
        for number, rest in measured:
            workload = theirs[number]
            name = _hash(workload)
            if name not in numbers:
                numbers[name] = len(workloads)
                workloads.append(workload)
            record = (numbers[name], rest)
            if record not in known:
                known.add(record)
                records.append(record)
        _write(destination, workloads, records)
        return len(records) - before


def _repair(folder: Path) -> None:
    """Drop what a killed tuner left half-written, and what was damaged since."""
    if (folder / WORKLOADS).exists() and (folder / RECORDS).exists():
        _write(folder, *_whole(folder))


def _whole(folder: Path) -> tuple[list[str], list[Measured]]:
    """The workloads, and the measurements as the number of their workload and the rest of the line.
    Damaged lines, and measurements of workloads that are not there, are left out; a
    DatabaseWarning counts them."""
    lines = read_lines(folder / WORKLOADS)
    damaged = parse_lines(lines, _require_workload)
    kept = [n for n, line in enumerate(lines) if n + 1 not in damaged and line.strip()]
    new_number = {old: new for new, old in enumerate(kept)}
    records: list[Measured] = []

    def take(value: Any, line: str) -> None:
        number = new_number[_require_record(value)]
        records.append((number, line.partition(",")[2]))

    orphaned = parse_lines(read_lines(folder / RECORDS), take)
    for name, numbers in ((WORKLOADS, damaged), (RECORDS, orphaned)):
        if numbers:
            told = damaged_lines(folder / name, numbers)
            warnings.warn(told, DatabaseWarning, stacklevel=3)
    return [lines[number] for number in kept], records


def _require_workload(value: Any, _line: str) -> None:
    name, module = value
    if not isinstance(name, str) or not isinstance(module, str):
        raise TypeError("a workload is a hash and a module")


def _require_record(value: Any) -> int:
    number, measured = value
    _trace, seconds, target, _arguments = measured
    if type(number) is not int or not isinstance(seconds, list) or not isinstance(target, dict):
        raise TypeError("a measurement is a trace, seconds, a target and arguments")
    return number


def _hash(workload: str) -> str:
    return str(json.loads(workload)[0])


def _write(folder: Path, workloads: list[str], records: list[Measured]) -> None:
    measured = [f"[{number},{rest}" for number, rest in records]
    for name, lines in ((WORKLOADS, workloads), (RECORDS, measured)):  # a record needs its workload
        if read_lines(folder / name) != lines:
            write_text(folder / name, "".join(line + "\n" for line in lines))
