"""sepify device: boards, and what can be said of them without having one."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from sepify.cli.options import Shapes, Types, input_request
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar

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
    before: Annotated[str, typer.Argument(help="A .pt or .pt2 file, or module:factory")],
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
    from sepify.compiling.device.counting import footprint, footprint_json, footprint_table
    from sepify.formats.load import load_model
    from sepify.storage import require_writable, write_json

    if output is not None:
        require_writable(output.parent)
    found = []
    for spec in (before, after):
        if spec is None:
            continue
        loaded = load_model(spec, input_request(input_shape, dtype))
        with progress_bar() as progress:
            found.append(footprint(loaded.module, loaded.inputs, target, progress))
    second = found[1] if len(found) > 1 else None
    facts = footprint_json(target, found[0], second)
    if output is not None:
        write_json(output, facts)
    written = () if output is None else (output,)
    return Outcome(footprint_table(target, found[0], second), facts, written)


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
    from sepify.compiling.bundle.checksums import check_checksums
    from sepify.errors import FileError

    check_checksums(bundle)
    program = bundle / "serve"
    if not program.is_file():
        raise FileError(f"{bundle} has no server: make it with --bundle runtime")
    command = [str(program), "--secret", str(secret), "--host", host, "--port", str(port)]
    command += ["--key", key, "--limit", str(limit)]
    if tracker is not None:
        command += ["--tracker", tracker]
    os.execv(program, command)


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
    from sepify.compiling.device.timing import time_bundle
    from sepify.errors import UsageError

    farm = find_farm(tracker, key, device, secret)
    if farm is None:
        raise UsageError("name a board: --device HOST:PORT, or --tracker HOST:PORT")
    with progress_bar() as progress:
        progress(f"{runs} runs on the board", 0, 0)  # it tells nothing before the last one
        found = time_bundle(bundle, farm, runs)
    said = f"{found.runs} runs on {found.board}: "
    if found.least is None or found.median is None:
        said += "it is an emulator, whose times say nothing about a board's"
    else:
        said += f"least {found.least:.3f} ms, median {found.median:.3f} ms"
    return Outcome(Text(said), asdict(found))
