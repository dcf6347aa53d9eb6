"""sepify merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sepify.cli.outcome import Outcome

EXAMPLES = (
    "sepify merge laptop-records server-records --into records",
    "sepify compile small.pt -o bundle --database records",
)


def merge(
    sources: Annotated[list[Path], typer.Argument(help="Folders that --database named")],
    into: Annotated[Path, typer.Option(help="Folder that gets what it lacks; may be new")],
) -> Outcome:
    """Put the tuning records of several folders into one, each once."""
    from sepify.jobs.merge import merge_databases

    added = merge_databases(sources, into)
    shown = f"{added['kernels']} records of own kernels and {added['metaschedule']} of MetaSchedule"
    return Outcome(Text(f"added {shown} to {into}"), {"added": added, "written": [str(into)]})
