"""sepify diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.outcome import Outcome

EXAMPLES = (
    "sepify diff plan1.json plan2.json",
    "sepify plan model.pt --calibration x.npy --budget macs=35% -o - | sepify diff old.json -",
)


def diff(
    first: Annotated[Path, typer.Argument(help="plan.json; - is stdin")],
    second: Annotated[Path, typer.Argument(help="plan.json; - is stdin")],
) -> Outcome:
    """What the second plan does differently from the first."""
    from sepify.jobs.plan import diff_files

    found = diff_files(first, second)
    return Outcome(found.render(), found.to_dict())
