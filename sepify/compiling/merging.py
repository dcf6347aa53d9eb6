"""Several folders of tuning records made one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sepify.compiling.kernel_tuning.records import FILE_NAME
from sepify.compiling.metaschedule_files import RECORDS, merge_records
from sepify.errors import FileError
from sepify.storage import append_line, read_lines


def merge_databases(sources: Sequence[Path], destination: Path) -> dict[str, int]:
    """Add to the folder `destination`, which may be new, the tuning records of `sources` that it
    lacks, of whatever target and versions; how many there were of own kernels and of MetaSchedule.

    What is there stays. Killed and run again, it goes on. Raises FileError where a source has no
    records, or one of the folders cannot be read or written.
    """
    for source in sources:
        if not (source / FILE_NAME).is_file() and not _by_target(source):
            raise FileError(f"no tuning records in {source}: give a folder that --database named")
    added = {"kernels": 0, "metaschedule": 0}
    for source in sources:
        known = set(read_lines(destination / FILE_NAME))
        for line in read_lines(source / FILE_NAME):
            if line not in known and _is_whole(line):
                append_line(destination / FILE_NAME, line)
                known.add(line)
                added["kernels"] += 1
        for folder in _by_target(source):
            added["metaschedule"] += merge_records(folder, destination / folder.name)
    return added


def _by_target(database: Path) -> list[Path]:
    """MetaSchedule's folders, one for a target and versions."""
    return sorted(path.parent for path in database.glob(f"*/{RECORDS}"))


def _is_whole(line: str) -> bool:
    """Not cut short by a kill."""
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True
