"""sepify demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar

EXAMPLES = (
    "sepify demo",
    "sepify demo --rank 2 -o /tmp/demo",
)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write")] = Path(
        "sepify-demo"
    ),
    rank: Annotated[int, typer.Option(help="Separable terms a channel, from 1")] = 1,
) -> Outcome:
    """The whole job on the network and the images that come with the package."""
    from sepify.demo.run import run_demo

    with progress_bar() as progress:
        result = run_demo(output, rank, progress)
    return Outcome(result.report, result.report.to_dict(), result.written)
