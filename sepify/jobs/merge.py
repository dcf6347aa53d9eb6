"""Several folders of tuning records made one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sepify.compiling.kernel_tuning.records import FILE_NAME
from sepify.compiling.metaschedule_files import RECORDS, merge_records
from sepify.errors import DatabaseWarning, FileError
from sepify.storage import append_line, damaged_lines, decode, parse_lines, read_lines


def merge_databases(sources: Sequence[Path], destination: Path) -> dict[str, int]:
    """Add to the folder `destination`, which may be new, the tuning records of `sources` that it
    lacks, of whatever target and versions; how many there were of own kernels and of MetaSchedule.

    What is there stays. A damaged line is skipped, and a DatabaseWarning says where. Killed and run
    again, it goes on. Raises FileError where a source has no
    records, or one of the folders cannot be read or written.
    """
    for source in sources:
        if not (source / FILE_NAME).is_file() and not _by_target(source):
            raise FileError(f"no tuning records in {source}: give a folder that --database named")
    added = {"kernels": 0, "metaschedule": 0}
    for source in sources:
        known = set(read_lines(destination / FILE_NAME))
        lines = read_lines(source / FILE_NAME)
        damaged = parse_lines(lines, lambda value, _: decode(dict[str, Any], value, "record"))
        if damaged:
            told = damaged_lines(source / FILE_NAME, damaged)
            warnings.warn(told, DatabaseWarning, stacklevel=2)
        for number, line in enumerate(lines, 1):
            if line.strip() and line not in known and number not in damaged:
                append_line(destination / FILE_NAME, line)
                known.add(line)
                added["kernels"] += 1
        for folder in _by_target(source):
            added["metaschedule"] += merge_records(folder, destination / folder.name)
    return added


def _by_target(database: Path) -> list[Path]:
    """MetaSchedule's folders, one for a target and versions."""
    return sorted(path.parent for path in database.glob(f"*/{RECORDS}"))
