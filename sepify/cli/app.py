"""The commands, in the order that --help lists them, and the entry point."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import typer
from rich.markup import escape

from sepify.cli import compile, convert, demo, device, diff, distill, inspect, plan, report
from sepify.cli.console import err, show_warning
from sepify.errors import SepifyError

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


def _command(function: Callable[..., None], examples: tuple[str, ...]) -> None:
    app.command(epilog="\n\n".join(["Examples:", *examples]))(function)


_command(inspect.inspect, inspect.EXAMPLES)
_command(convert.convert, convert.EXAMPLES)
_command(plan.plan, plan.EXAMPLES)
_command(diff.diff, diff.EXAMPLES)
_command(distill.distill, distill.EXAMPLES)
_command(compile.compile, compile.EXAMPLES)
app.add_typer(device.app, name="device")
_command(report.report, report.EXAMPLES)
_command(demo.demo, demo.EXAMPLES)


def main() -> None:
    """Entry point: a SepifyError becomes one line on stderr and its exit code; so does a warning
    of ours, without the code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            app()
    except SepifyError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
