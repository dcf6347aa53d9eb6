"""The command line: one function a command. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sepify.errors import SepifyError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a trained convolutional network into a depthwise-separable one, compile it for the "
    "CPU it will run on, and prove what that bought.",
    epilog="MODEL is a TorchScript file, or module:factory (which runs that module's code).",
)
out = Console()
err = Console(stderr=True)

Model = Annotated[str, typer.Argument(help="TorchScript file, or module:factory")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        help="Shape of an input, batch first, such as 1,3,224,224; repeat for several inputs. "
        "Files that sepify wrote know theirs.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(help="Labelled test data: .npz with arrays 'images' (n,C,H,W) and 'labels' (n)"),
]


def _examples(*lines: str) -> str:
    return "\n\n".join(["Examples:", *lines])


@app.command(
    epilog=_examples(
        "sepify inspect model.pt --input-shape 1,3,224,224",
        "sepify inspect torchvision.models:resnet18 --input-shape 1,3,224,224",
    )
)
def inspect(model: Model, input_shape: Shapes = None) -> None:
    """Layers, what they cost, how separable each is."""
    from sepify.inspecting import inspection_table
    from sepify.models import load_model

    out.print(inspection_table(load_model(model, _shapes(input_shape))))


@app.command(
    epilog=_examples(
        "sepify convert model.pt -o small.pt --rank 2 --calibration images.npy",
        "sepify convert model.pt -o small.pt --plan edited.json --calibration images.npy",
    )
)
def convert(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="TorchScript file to write")],
    rank: Annotated[int, typer.Option(help="Separable terms a channel, from 1")] = 1,
    order: Annotated[str, typer.Option(help="dw-pw or pw-dw")] = "dw-pw",
    keep: Annotated[
        list[str] | None, typer.Option(help="Convolutions to leave alone, e.g. 'layer1.*'; repeat")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="Carry out this plan.json instead")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Unlabelled inputs (n,C,H,W): .npy, or .npz with 'images'")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="least-squares (default with calibration data) or svd")
    ] = None,
    data: Data = None,
    report: Annotated[bool, typer.Option(help="Also write OUTPUT's .report.json and .html")] = True,
    input_shape: Shapes = None,
) -> None:
    """Rewrite a model's convolutions into depthwise + pointwise ones."""
    from sepify.converting import ConversionRequest, convert_file

    request = ConversionRequest(
        model=model,
        output=output,
        input_shapes=_shapes(input_shape),
        rank=rank,
        order=order,
        keep=tuple(keep or ()),
        plan=plan,
        calibration=calibration,
        method=method,
        data=data,
        report=report,
    )
    with _progress() as progress:
        result = convert_file(request, progress)
    out.print(result.summary)
    _list_written(result.written)


@app.command(
    epilog=_examples(
        "sepify compile small.pt -o bundle",
        "sepify compile small.pt -o bundle --target x86-64-v3 --tune 10min",
    )
)
def compile(
    model: Annotated[str | None, typer.Argument(help="TorchScript file, or module:factory")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write")] = None,
    target: Annotated[str, typer.Option(help="A preset, or 'list' to see them")] = "native",
    tune: Annotated[
        str | None, typer.Option(help="Tuning budget: a time such as 10min, or a number of trials")
    ] = None,
    database: Annotated[Path | None, typer.Option(help="Folder of tuning records to reuse")] = None,
    input_shape: Shapes = None,
) -> None:
    """Compile a model with TVM for a CPU; the result is checked against torch before it is kept."""
    from sepify.compiling import compile as compile_model
    from sepify.compiling import targets
    from sepify.errors import UsageError
    from sepify.models import load_model
    from sepify.storage import require_writable

    if target == "list":
        for preset in targets():
            out.print(f"{preset.name:14} {escape(preset.summary)}")
        return
    if model is None or output is None:
        raise UsageError("compile needs a MODEL and an output folder: sepify compile MODEL -o DIR")
    require_writable(output.parent)
    loaded = load_model(model, _shapes(input_shape))
    with _progress() as progress:
        compiled = compile_model(
            loaded.module, loaded.inputs, target, tune=tune, database=database, progress=progress
        )
    compiled.save(output)
    meta = compiled.metadata
    out.print(f"compiled for {meta.target}; largest relative error {meta.max_relative_error:.1e}")
    _list_written([output])


@app.command(
    epilog=_examples(
        "sepify report model.pt small.pt --data test.npz -o report.html",
        "sepify report model.pt small.pt --input-shape 1,3,224,224 --target none",
    )
)
def report(
    before: Annotated[str, typer.Argument(help="The original: TorchScript or module:factory")],
    after: Annotated[str, typer.Argument(help="The converted one")],
    output: Annotated[
        list[Path] | None, typer.Option("--output", "-o", help="report.html or .json; repeat")
    ] = None,
    data: Data = None,
    plan: Annotated[Path | None, typer.Option(help="plan.json of the conversion")] = None,
    target: Annotated[str, typer.Option(help="TVM target, or 'none' to leave TVM out")] = "native",
    input_shape: Shapes = None,
) -> None:
    """Compare two models: MACs, FLOPs, parameters, size, latency, accuracy, fidelity."""
    from sepify.converting import compare_files

    with _progress() as progress:
        result = compare_files(
            before,
            after,
            input_shapes=_shapes(input_shape),
            data=data,
            plan=plan,
            target=None if target == "none" else target,
            outputs=output or (),
            progress=progress,
        )
    out.print(result)
    _list_written(output or ())


@app.command(epilog=_examples("sepify demo", "sepify demo --rank 2 -o /tmp/demo"))
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write")] = Path(
        "sepify-demo"
    ),
    rank: Annotated[int, typer.Option(help="Separable terms a channel, from 1")] = 1,
) -> None:
    """The whole job on the network and the images that come with the package."""
    from sepify.demo.run import run_demo

    with _progress() as progress:
        result = run_demo(output, rank, progress)
    out.print(result.report)
    _list_written(result.written)


def main() -> None:
    """Entry point: a SepifyError becomes one line on stderr and its exit code."""
    try:
        app()
    except SepifyError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)


def _shapes(texts: list[str] | None) -> tuple[tuple[int, ...], ...]:
    from sepify.models import parse_shape

    return tuple(parse_shape(text) for text in texts or ())


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, moved by progress(what, done, total); total 0 where it is unknown."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("starting", total=1)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=escape(what), completed=done, total=total or None)

        try:
            yield show
        except KeyboardInterrupt:
            err.print("interrupted; nothing half-written was left behind")
            raise


def _list_written(paths: list[Path] | tuple[Path, ...]) -> None:
    for path in paths:
        err.print(f"wrote {escape(str(path))}", soft_wrap=True)
