"""sepify diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.console import out

EXAMPLES = (
    "sepify diff plan1.json plan2.json",
    "sepify diff old.json new.json --json",
)


def diff(
    first: Annotated[Path, typer.Argument(help="plan.json")],
    second: Annotated[Path, typer.Argument(help="plan.json")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for a pipeline")] = False,
) -> None:
    """What the second plan does differently from the first."""
    import json

    from sepify.plan_files import diff_files

    found = diff_files(first, second)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        out.print(found.render())
