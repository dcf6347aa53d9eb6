"""The command line: one function a command. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

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

from sepify.errors import CalibrationWarning, SepifyError

if TYPE_CHECKING:
    from sepify.models import InputRequest

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a trained convolutional network into a depthwise-separable one, compile it for the "
    "CPU it will run on, and prove what that bought.",
    epilog="MODEL is a TorchScript (.pt) or torch.export (.pt2) file, or module:factory (which "
    "runs that module's code).",
)
out = Console()
err = Console(stderr=True)

Model = Annotated[str, typer.Argument(help="A .pt or .pt2 file, or module:factory")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        help="Shape of an input, batch first, such as 1,3,224,224; repeat for several inputs. "
        "Files that sepify wrote know theirs.",
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        help="Type of the inputs, such as float16 or bfloat16, default float32; repeat for several "
        "inputs of different types.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(help="Labelled test data: .npz with arrays 'images' (n,C,H,W) and 'labels' (n)"),
]

Budget = Annotated[
    str | None,
    typer.Option(
        help="One of macs=35%, params=250k, size_mb=1.5, latency=50%@native, accuracy_drop=0.5"
    ),
]


def _examples(*lines: str) -> str:
    return "\n\n".join(["Examples:", *lines])


@app.command(
    epilog=_examples(
        "sepify inspect model.pt --input-shape 1,3,224,224",
        "sepify inspect torchvision.models:resnet18 --input-shape 1,3,224,224",
    )
)
def inspect(model: Model, input_shape: Shapes = None, dtype: Types = None) -> None:
    """Layers, what they cost, how separable each is."""
    from sepify.inspecting import inspection_table
    from sepify.models import load_model

    out.print(inspection_table(load_model(model, _inputs(input_shape, dtype))))


@app.command(
    epilog=_examples(
        "sepify convert model.pt -o small.pt --rank 2 --calibration images.npy",
        "sepify convert model.pt -o small.pt --plan edited.json --calibration images.npy",
        "sepify convert model.pt2 -o small.onnx --rank 2",
    )
)
def convert(
    model: Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .pt (TorchScript), .pt2 (torch.export), .onnx, or .safetensors "
            "(weights, to load with the plan)",
        ),
    ],
    rank: Annotated[int, typer.Option(help="Separable terms a channel, from 1")] = 1,
    order: Annotated[str, typer.Option(help="dw-pw or pw-dw")] = "dw-pw",
    keep: Annotated[
        list[str] | None, typer.Option(help="Convolutions to leave alone, e.g. 'layer1.*'; repeat")
    ] = None,
    budget: Budget = None,
    plan: Annotated[Path | None, typer.Option(help="Carry out this plan.json instead")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Unlabelled inputs (n,C,H,W): .npy, or .npz with 'images'")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="least-squares (default with calibration data) or svd")
    ] = None,
    memory: Annotated[
        float, typer.Option(help="GiB for calibration; what is beyond goes to a temporary file")
    ] = 4.0,
    data: Data = None,
    report: Annotated[bool, typer.Option(help="Also write OUTPUT's .report.json and .html")] = True,
    input_shape: Shapes = None,
    dtype: Types = None,
) -> None:
    """Rewrite a model's convolutions into depthwise + pointwise ones."""
    from sepify.converting import ConversionRequest, convert_file

    request = ConversionRequest(
        model=model,
        output=output,
        inputs=_inputs(input_shape, dtype),
        rank=rank,
        order=order,
        keep=tuple(keep or ()),
        budget=budget,
        plan=plan,
        calibration=calibration,
        method=method,
        memory=memory,
        data=data,
        report=report,
    )
    with _progress() as progress:
        result = convert_file(request, progress)
    out.print(result.summary)
    _list_written(result.written)


@app.command(
    epilog=_examples(
        "sepify plan model.pt --calibration images.npy --budget macs=35% -o plan.json",
        "sepify plan model.pt --calibration images.npy --frontier",
    )
)
def plan(
    model: Model,
    calibration: Annotated[
        Path, typer.Option(help="Unlabelled inputs (n,C,H,W): .npy, or .npz with 'images'")
    ],
    budget: Budget = None,
    frontier: Annotated[
        bool, typer.Option(help="The whole curve of cost against loss instead of one plan")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="plan.json; with --frontier its JSON")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Convolutions to leave alone, e.g. 'layer1.*'; repeat")
    ] = None,
    data: Data = None,
    measurements: Annotated[
        Path | None, typer.Option(help="JSON of what was measured: read if there, else written")
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option(help="JSON of latencies: gone on from if there, then written")
    ] = None,
    input_shape: Shapes = None,
    dtype: Types = None,
) -> None:
    """Choose order and rank of each convolution for a budget."""
    from sepify.plan_files import PlanningRequest, plan_file

    request = PlanningRequest(
        model=model,
        inputs=_inputs(input_shape, dtype),
        calibration=calibration,
        budget=budget,
        frontier=frontier,
        output=output,
        keep=tuple(keep or ()),
        data=data,
        measurements=measurements,
        latency_table=latency_table,
    )
    with _progress() as progress:
        result = plan_file(request, progress)
    out.print(result.summary)
    _list_written(result.written)


@app.command(
    epilog=_examples("sepify diff plan1.json plan2.json", "sepify diff old.json new.json --json")
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


@app.command(
    epilog=_examples(
        "sepify compile small.pt -o bundle",
        "sepify compile small.pt -o bundle --target x86-64-v3 --tune 10min",
    )
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
            out.print(f"{preset.name:14} {escape(preset.summary)}")
        return
    if model is None or output is None:
        raise UsageError("compile needs a MODEL and an output folder: sepify compile MODEL -o DIR")
    require_writable(output.parent)
    loaded = load_model(model, _inputs(input_shape, dtype))
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

    with _progress() as progress:
        result = compare_files(
            before,
            after,
            inputs=_inputs(input_shape, dtype),
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
    """Entry point: a SepifyError becomes one line on stderr and its exit code; so does a warning
    of ours, without the code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app()
    except SepifyError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)


_show_other_warning = warnings.showwarning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, CalibrationWarning):
        err.print(f"[bold yellow]warning:[/] {escape(str(message))}", soft_wrap=True)
    else:
        _show_other_warning(message, category, filename, lineno, file, line)


def _inputs(shapes: list[str] | None, dtypes: list[str] | None) -> InputRequest:
    from sepify.models import InputRequest, parse_dtype, parse_shape

    return InputRequest(
        tuple(parse_shape(text) for text in shapes or ()),
        tuple(parse_dtype(text) for text in dtypes or ()),
    )


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
