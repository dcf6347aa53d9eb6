"""Latency of both networks on a board, measured there over RPC and in turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from sepify.errors import UsageError
from sepify.graph.running import Inputs
from sepify.judging.number_words import threads_text
from sepify.process.machine import Machine
from sepify.process.progress import Progress
from sepify.timing.race import LatencyRow, Which, ratio, spread

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm

ROUNDS = (5, 40)  # fewest, most
REPEATS = 3  # timed runs in a turn
SHARE = 0.3  # of a session's seconds, for the rounds of one number of threads

METHOD = (
    "On the board, over RPC, by TVM's time_evaluator: both networks are compiled for {target} "
    "here, sent there, and held against torch's output; every round gives each of them one turn, "
    "in a random order, with one discarded run and then {repeats} timed ones; {least} rounds at "
    "least. One session for each number of threads."
)


@dataclass(frozen=True)
class BoardLatency:
    """Both networks on the board at `board` (an address, or a key at a tracker), compiled for
    `target`; `machine` is what the board says of itself. Rows have no `over_fastest`: nothing
    else was timed there. Where the board is `emulated` they have no times either: an emulator's
    say nothing about a board's."""

    board: str
    target: str
    machine: Machine
    emulated: bool
    rows: tuple[LatencyRow, ...]
    batch: int
    repeats: int
    method: str


def require_board(farm: Farm | None, target: str | None) -> None:
    """Raise UsageError for a board without a target, or the other way round, or one that boards
    cannot have; DeviceError where no board answers: before anything is measured."""
    if farm is None and target is None:
        return
    if farm is None:
        raise UsageError(
            f"target '{target}' is a board's, and none is named: --device HOST:PORT --secret FILE, "
            "or --tracker HOST:PORT"
        )
    if target is None:
        raise UsageError(
            "a board is named, and what it is is not: --device-target raspberry-pi-4, or another "
            "of sepify compile --target list"
        )
    from sepify.compiling.device.boards import look_for_board
    from sepify.compiling.device.linking import board_target

    board_target(target)
    look_for_board(farm)


def time_on_board(
    models: Mapping[Which, nn.Module],
    given: Mapping[Which, Inputs],
    farm: Farm,
    target: str,
    seed: int,
    progress: Progress,
) -> BoardLatency:
    """Time both networks on the board, on one thread and on one for each core.

    Raises UsageError for a target that is no board's, DeviceError where the board is lost,
    CompileError where a network cannot be compiled or gives something else there than torch.
    """
    from sepify.compiling.device.linking import board_target, link_network
    from sepify.compiling.device.timing import Turns, open_timer

    chosen = board_target(target)
    sides: tuple[Which, Which] = ("before", "after")
    networks = [link_network(models[side], given[side], chosen, progress) for side in sides]
    rows = []
    with open_timer(farm) as timer:
        facts = timer.facts
        for threads in sorted({1, timer.threads}):
            progress(f"timing on {farm}, {threads_text(threads)}", 0, 0)
            name = f"TVM, {target}"
            if facts.emulated:  # sent there and checked all the same
                timer.race(networks, Turns(threads))
                rows.append(LatencyRow(name, threads, None, None, None, None))
                continue
            turns = Turns(threads, SHARE * farm.session, ROUNDS, REPEATS)
            before, after = timer.race(networks, turns)
            spreads = spread(before), spread(after)
            rows.append(LatencyRow(name, threads, *spreads, ratio(before, after, seed), None))
    return BoardLatency(
        board=str(farm),
        target=target,
        machine=Machine(
            facts.cpu, facts.cpus, facts.extensions, facts.system, governor=facts.governor
        ),
        emulated=facts.emulated,
        rows=tuple(rows),
        batch=len(given["before"][0]),
        repeats=REPEATS,
        method=METHOD.format(target=target, repeats=REPEATS, least=ROUNDS[0]),
    )
