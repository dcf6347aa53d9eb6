"""sepify device: boards, and what can be said of them without having one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sepify.cli.options import Shapes, Types, input_request
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar
from sepify.formats.table import INPUTS

HELP = "Boards, and what can be said of them without one."
COUNT_EXAMPLES = (
    "sepify device count model.pt small.pt --target raspberry-pi-4",
    "sepify device count small.pt --target armv7 -o counts.json",
)
SERVE_EXAMPLES = (
    "sepify device serve bundle --secret secret.txt",
    "sepify device serve bundle --secret secret.txt --tracker 192.168.1.2:9190 --key pi4",
)
TIME_EXAMPLES = (
    "sepify device time bundle --device 192.168.1.20:9090 --secret secret.txt",
    "sepify device time bundle --tracker 127.0.0.1:9190 --key pi4 --secret secret.txt",
)


def count(
    before: Annotated[str, typer.Argument(help=INPUTS)],
    after: Annotated[str | None, typer.Argument(help="The converted one, beside it")] = None,
    target: Annotated[
        str, typer.Option(help="An ARM preset: sepify compile --target list")
    ] = "raspberry-pi-4",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Counts as JSON")] = None,
    input_shape: Shapes = None,
    dtype: Types = None,
) -> Outcome:
    """Instructions, multiply-adds, loads and stores of one inference, counted under qemu-user, and
    bytes of code, weights and memory. Never a time: an emulator's says nothing about a board's."""
    asked = input_request(input_shape, dtype)
    from sepify.jobs.device import count_files

    with progress_bar() as progress:
        found = count_files(before, after, asked, target, output, progress)
    return Outcome(found.table, found.facts, found.written)


def serve(
    bundle: Annotated[Path, typer.Argument(help="A runtime bundle for this machine")],
    secret: Annotated[Path, typer.Option(help="File with a secret of 16 characters or more")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback lets the network in")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free")] = 9090,
    key: Annotated[
        str, typer.Option(help="What clients and the tracker call this board")
    ] = "board",
    limit: Annotated[int, typer.Option(help="Seconds that one connection may take")] = 60,
    tracker: Annotated[str | None, typer.Option(help="HOST:PORT of TVM's RPC tracker")] = None,
) -> None:
    """Let others tune and time on this machine: the bundle's own small server, which needs no
    sepify (`bundle/serve` on a board). Whoever knows the secret can run any code here."""
    from sepify.jobs.device import serve_bundle

    serve_bundle(bundle, secret=secret, host=host, port=port, key=key, limit=limit, tracker=tracker)


def time(
    bundle: Annotated[Path, typer.Argument(help="A runtime bundle for the board")],
    secret: Annotated[Path, typer.Option(help="File with the secret that the server was given")],
    device: Annotated[list[str] | None, typer.Option(help="HOST:PORT of the board")] = None,
    tracker: Annotated[str | None, typer.Option(help="HOST:PORT of TVM's RPC tracker")] = None,
    key: Annotated[str | None, typer.Option(help="The board's key; default: board")] = None,
    runs: Annotated[int, typer.Option(help="Inferences, each timed")] = 50,
) -> Outcome:
    """The latency of a bundle on a board, measured there."""
    from sepify.compiling.device.boards import find_farm
    from sepify.jobs.device import describe, time_on_board

    farm = find_farm(tracker, key, device, secret)
    with progress_bar() as progress:
        found = time_on_board(bundle, farm, runs, progress)
    return Outcome(Text(describe(found)), asdict(found))
