"""sepify report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.console import list_written, out
from sepify.cli.options import Data, Shapes, Types, input_request
from sepify.cli.progress import progress_bar

EXAMPLES = (
    "sepify report model.pt small.pt --data test.npz -o report.html",
    "sepify report model.pt small.pt --input-shape 1,3,224,224 --target none",
)


def report(
    before: Annotated[str, typer.Argument(help="The original: .pt, .pt2 or module:factory")],
    after: Annotated[str, typer.Argument(help="The converted one")],
    output: Annotated[
        list[Path] | None, typer.Option("--output", "-o", help="report.html or .json; repeat")
    ] = None,
    data: Data = None,
    plan: Annotated[Path | None, typer.Option(help="plan.json of the conversion")] = None,
    target: Annotated[str, typer.Option(help="TVM target, or 'none' to leave TVM out")] = "native",
    input_shape: Shapes = None,
    dtype: Types = None,
) -> None:
    """Compare two models: MACs, FLOPs, parameters, size, latency, accuracy, fidelity."""
    from sepify.converting import compare_files

    with progress_bar() as progress:
        result = compare_files(
            before,
            after,
            inputs=input_request(input_shape, dtype),
            data=data,
            plan=plan,
            target=None if target == "none" else target,
            outputs=output or (),
            progress=progress,
        )
    out.print(result)
    list_written(output or ())
