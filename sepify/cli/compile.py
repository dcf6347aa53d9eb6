"""sepify compile."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sepify.cli.options import Dump, Shapes, Types, input_request
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar
from sepify.errors import UsageError
from sepify.formats.table import INPUTS

EXAMPLES = (
    "sepify compile small.pt -o bundle",
    "sepify compile small.pt -o bundle --target x86-64-v3 --tune 10min",
    "sepify compile small.pt -o bundle --target raspberry-pi-4",
    "sepify compile small.pt -o bundle --target raspberry-pi-2 --bundle c --name digits",
)


def compile(
    model: Annotated[str | None, typer.Argument(help=INPUTS)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write")] = None,
    target: Annotated[str, typer.Option(help="A preset, or 'list' to see them")] = "native",
    target_json: Annotated[
        Path | None,
        typer.Option(
            help="A target of your own instead: JSON with triple and cpu, and if need be name, "
            "features, float_abi, cores, compiler, lanes, registers"
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            help="What to write for a device: runtime (TVM's runtime, a runner, a Python loader; "
            "the default for a target that this machine is not) or c (plain C without TVM)"
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the C functions, with --bundle c")] = "network",
    preprocessing: Annotated[
        str | None, typer.Option(help="A note for whoever feeds it, kept in a bundle's model.json")
    ] = None,
    tune: Annotated[
        str | None, typer.Option(help="Tuning budget: a time such as 10min, or a number of trials")
    ] = None,
    database: Annotated[Path | None, typer.Option(help="Folder of tuning records to reuse")] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a board that runs our server, to tune on; repeat"),
    ] = None,
    tracker: Annotated[
        str | None, typer.Option(help="HOST:PORT of TVM's RPC tracker, to tune on its boards")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The boards' key; default: board")] = None,
    secret: Annotated[
        Path | None, typer.Option(help="File with the secret that the boards' servers were given")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace a folder that holds a bundle for another target, or of another kind",
        ),
    ] = False,
    input_shape: Shapes = None,
    dtype: Types = None,
    dump: Dump = None,
) -> Outcome:
    """Compile a model with TVM for a CPU. What this machine can run is checked against torch before
    it is kept; a bundle for another one checks itself there: its self-test."""
    if target != "list" and (model is None or output is None):
        raise UsageError("compile needs a MODEL and an output folder: sepify compile MODEL -o DIR")
    asked = input_request(input_shape, dtype)
    from sepify.compiling.device.boards import find_farm
    from sepify.compiling.targets import targets
    from sepify.jobs.compile import CompilationRequest, compile_file, render_targets

    if model is None or output is None:
        return Outcome(render_targets(), [asdict(preset) for preset in targets()])
    request = CompilationRequest(
        model=model,
        output=output,
        inputs=asked,
        target=target,
        target_json=target_json,
        bundle=bundle,
        name=name,
        preprocessing=preprocessing,
        tune=tune,
        database=database,
        farm=find_farm(tracker, key, device, secret),
        replace=replace,
        dump=dump,
    )
    with progress_bar() as progress:
        summary = compile_file(request, progress)
    facts = {"summary": summary, "written": [str(output)]}
    return Outcome(Text(summary), facts, (output,))
