"""Boards, and what can be said of them without having one: what `sepify device` does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sepify.compiling.bundle.checksums import check_checksums
from sepify.compiling.device import counting, timing
from sepify.compiling.device.boards import Farm
from sepify.errors import FileError, UsageError
from sepify.formats.input_note import InputRequest
from sepify.formats.load import load_model
from sepify.process.progress import Progress
from sepify.storage import require_writable, write_json
from sepify.storage.writing import results_stream


@dataclass(frozen=True)
class Counts:
    """What one inference of one or two models takes on a target, as a table and as plain JSON."""

    table: Table
    facts: dict[str, Any]
    written: tuple[Path, ...]


def count_files(
    before: str,
    after: str | None,
    asked: InputRequest,
    target: str,
    output: Path | None,
    progress: Progress,
) -> Counts:
    """Count under an emulator, and write the counts as JSON where an `output` is named. Raises what
    loading and compiling raise, and FileError where the file cannot be written."""
    if output is not None:
        require_writable(output.parent)
    found = []
    for spec in (before, after):
        if spec is not None:
            loaded = load_model(spec, asked)
            found.append(counting.footprint(loaded.module, loaded.inputs, target, progress))
    second = found[1] if len(found) > 1 else None
    facts = counting.footprint_json(target, found[0], second)
    if output is not None:
        write_json(output, facts)
    table = counting.footprint_table(target, found[0], second)
    return Counts(table, facts, () if output is None else (output,))


def serve_bundle(
    bundle: Path, *, secret: Path, host: str, port: int, key: str, limit: int, tracker: str | None
) -> None:
    """Become the bundle's own server. Raises FileError where the bundle is damaged or has none."""
    check_checksums(bundle)
    program = bundle / "serve"
    if not program.is_file():
        raise FileError(f"{bundle} has no server: make it with --bundle runtime")
    command = [str(program), "--secret", str(secret), "--host", host, "--port", str(port)]
    command += ["--key", key, "--limit", str(limit)]
    if tracker is not None:
        command += ["--tracker", tracker]
    os.dup2(results_stream().fileno(), 1)  # what the server says is the result of this command
    os.execv(program, command)


def time_on_board(
    bundle: Path, farm: Farm | None, runs: int, progress: Progress
) -> timing.BoardLatency:
    """Measure the latency of a bundle there. Raises UsageError where no board is named, and
    DeviceError."""
    if farm is None:
        raise UsageError("name a board: --device HOST:PORT, or --tracker HOST:PORT")
    progress(f"{runs} runs on the board", 0, 0)  # it tells nothing before the last one
    return timing.time_bundle(bundle, farm, runs)


def describe(found: timing.BoardLatency) -> str:
    """What was measured, in a line."""
    said = f"{found.runs} runs on {found.board}: "
    if found.least is None or found.median is None:
        return said + "it is an emulator, whose times say nothing about a board's"
    return said + f"least {found.least:.3f} ms, median {found.median:.3f} ms"
