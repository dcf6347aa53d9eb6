"""The commands, in the order that --help lists them, and the entry point."""

from __future__ import annotations

import functools
import inspect as signatures
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sepify import __version__
from sepify.cli import (
    compile,
    convert,
    demo,
    device,
    diff,
    distill,
    doctor,
    inspect,
    merge,
    plan,
    quantize,
    report,
)
from sepify.cli.console import list_written, notes, out, say, show_crash, show_warning
from sepify.cli.interrupt import interruptible
from sepify.cli.outcome import Outcome
from sepify.cli.streams import checked_streams, results_apart
from sepify.errors import SepifyError
from sepify.formats.table import INPUTS_IN_WORDS
from sepify.printable import printable
from sepify.process.starting import is_main_process, leave_current_folder


@contextmanager
def _printable_usage() -> Iterator[None]:
    """What was wrongly given on the command line is repeated without control characters."""
    try:
        yield
    except Exception as error:
        if isinstance(said := getattr(error, "message", None), str):  # click's, or typer's own copy
            vars(error)["message"] = printable(said)
        raise


class _Commands(TyperGroup):
    """The commands, whose names and options are looked up as the command line is read."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _printable_usage():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _printable_usage():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a trained convolutional network into a depthwise-separable one, compile it for the "
    "CPU it will run on, and prove what that bought.",
    epilog=f"MODEL is {INPUTS_IN_WORDS}. '-' is stdin or stdout for JSON and Markdown.",
)
STREAM = Path("-")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sepify {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say it and stop"),
    ] = False,
) -> None:
    pass


AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for machines")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no list of files")]


def _command(
    function: Callable[..., Outcome | None], examples: tuple[str, ...], group: typer.Typer = app
) -> None:
    group.command(epilog="\n\n".join(["Examples:", *examples]))(_shown(function))


def _shown(function: Callable[..., Outcome | None]) -> Callable[..., None]:
    """The command with --json and --quiet, its outcome printed."""

    @functools.wraps(function)
    def command(*, as_json: bool, quiet: bool, **options: Any) -> None:
        notes.quiet = quiet
        with results_apart():
            outcome = function(**options)
        if outcome is None or not is_main_process():
            return
        if as_json or outcome.shown is None:
            typer.echo(json.dumps(outcome.facts, indent=2))
        else:
            # where a file went to stdout, nothing else may
            (notes if STREAM in outcome.written else out).print(outcome.shown)
        list_written(path for path in outcome.written if path != STREAM)

    # typer reads the signature; annotations are resolved here, where their names are known
    given = signatures.signature(function, eval_str=True)
    kind = signatures.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=kind) for parameter in given.parameters.values()]
    for name, annotation in (("as_json", AsJson), ("quiet", Quiet)):
        parameters.append(signatures.Parameter(name, kind, default=False, annotation=annotation))
    command.__annotations__ = {
        **{parameter.name: parameter.annotation for parameter in parameters},
        "return": None,
    }
    vars(command)["__signature__"] = given.replace(parameters=parameters)
    return command


_command(inspect.inspect, inspect.EXAMPLES)
_command(convert.convert, convert.EXAMPLES)
_command(plan.plan, plan.EXAMPLES)
_command(diff.diff, diff.EXAMPLES)
_command(distill.distill, distill.EXAMPLES)
_command(quantize.quantize, quantize.EXAMPLES)
_command(compile.compile, compile.EXAMPLES)
_command(merge.merge, merge.EXAMPLES)
boards = typer.Typer(no_args_is_help=True, help=device.HELP)
_command(device.count, device.COUNT_EXAMPLES, boards)
_command(device.serve, device.SERVE_EXAMPLES, boards)
_command(device.time, device.TIME_EXAMPLES, boards)
app.add_typer(boards, name="device")
_command(report.report, report.EXAMPLES)
_command(demo.demo, demo.EXAMPLES)
_command(doctor.doctor, doctor.EXAMPLES)


def main() -> None:
    """Entry point: a SepifyError becomes one line on stderr and its exit code; so does a warning
    of ours, without the code. So does an output that takes no more: a full disk, a closed pipe."""
    sys.excepthook = show_crash
    leave_current_folder()
    try:
        with warnings.catch_warnings(), checked_streams():
            warnings.showwarning = show_warning
            with interruptible():
                app()
    except SepifyError as error:
        say("error", "bold red", str(error))
        sys.exit(error.exit_code)
