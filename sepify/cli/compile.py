"""sepify compile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sepify.cli.console import list_written, out
from sepify.cli.options import Shapes, Types, input_request
from sepify.cli.progress import progress_bar

EXAMPLES = (
    "sepify compile small.pt -o bundle",
    "sepify compile small.pt -o bundle --target x86-64-v3 --tune 10min",
)


def compile(
    model: Annotated[
        str | None, typer.Argument(help="A .pt or .pt2 file, or module:factory")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write")] = None,
    target: Annotated[str, typer.Option(help="A preset, or 'list' to see them")] = "native",
    tune: Annotated[
        str | None, typer.Option(help="Tuning budget: a time such as 10min, or a number of trials")
    ] = None,
    database: Annotated[Path | None, typer.Option(help="Folder of tuning records to reuse")] = None,
    input_shape: Shapes = None,
    dtype: Types = None,
) -> None:
    """Compile a model with TVM for a CPU; the result is checked against torch before it is kept."""
    from sepify.compiling import compile as compile_model
    from sepify.compiling import targets
    from sepify.errors import UsageError
    from sepify.models import load_model
    from sepify.storage import require_writable

    if target == "list":
        for preset in targets():
            out.print(f"{preset.name:15} {escape(preset.summary)}", soft_wrap=True)
            if preset.details:
                out.print(f"{'':15} [dim]{escape(preset.details)}[/]", soft_wrap=True)
        return
    if model is None or output is None:
        raise UsageError("compile needs a MODEL and an output folder: sepify compile MODEL -o DIR")
    require_writable(output.parent)
    loaded = load_model(model, input_request(input_shape, dtype))
    with progress_bar() as progress:
        compiled = compile_model(
            loaded.module, loaded.inputs, target, tune=tune, database=database, progress=progress
        )
    compiled.save(output)
    meta = compiled.metadata
    out.print(f"compiled for {meta.target}; largest relative error {meta.max_relative_error:.1e}")
    list_written([output])
