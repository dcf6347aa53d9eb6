"""MetaSchedule's two files of tuning records: one tuner at a time, mended after a kill, merged.

One file has a workload a line, the other measurements, each with the number of its workload's line.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sepify.storage import read_lines, require_writable, write_text

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
        hashes = {json.loads(line)[0]: index for index, line in enumerate(workloads)}
        known, before = set(records), len(records)
        for line in measured:
            number, comma, rest = line.removeprefix("[").partition(",")
            workload = theirs[int(number)]
            name = json.loads(workload)[0]
            if name not in hashes:
                hashes[name] = len(workloads)
                workloads.append(workload)
            line = f"[{hashes[name]}{comma}{rest}"
            if line not in known:
                known.add(line)
                records.append(line)
        _write(destination / WORKLOADS, workloads)  # first: a record must find its workload
        _write(destination / RECORDS, records)
        return len(records) - before


def _repair(folder: Path) -> None:
    """Drop what a killed tuner left half-written: at most the last line of each file."""
    if (folder / WORKLOADS).exists() and (folder / RECORDS).exists():
        workloads, records = _whole(folder)
        _write(folder / WORKLOADS, workloads)
        _write(folder / RECORDS, records)


def _whole(folder: Path) -> tuple[list[str], list[str]]:
    """The lines of both files up to the first that is not JSON, without measurements of workloads
    that are not there."""
    workloads = _whole_lines(folder / WORKLOADS)
    records = _whole_lines(folder / RECORDS)
    return workloads, [line for line in records if json.loads(line)[0] < len(workloads)]


def _whole_lines(path: Path) -> list[str]:
    whole = []
    for line in read_lines(path):
        try:
            json.loads(line)
        except json.JSONDecodeError:
            break
        whole.append(line)
    return whole


def _write(path: Path, lines: list[str]) -> None:
    if read_lines(path) != lines:
        write_text(path, "".join(line + "\n" for line in lines))
