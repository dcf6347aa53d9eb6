"""Boards that run our server, found straight or through TVM's tracker; pure sockets, each with a
time limit: nothing here waits for ever.

The protocols are those of tvm/rpc/base.py, tracker.py and server.py (TVM 0.27). The secret goes
with the key, in clear.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepify.errors import DeviceError, UsageError, first_line
from sepify.storage import read_text

_MAGIC = 0xFF271
_TRACKER_MAGIC = 0x2F271
_REQUEST, _SUMMARY = 4, 6
_SECONDS = 10.0  # for any answer but a measurement's
_SLICE = 0.5  # of waiting
_AT_ONCE = 32
_LARGEST = 2**20  # bytes of an answer
DEFAULT_KEY = "board"


@dataclass(frozen=True)
class Board:
    """One server, and the key that it expects; with a tracker, for one connection."""

    host: str
    port: int
    match: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Farm:
    """Where boards are: one tracker and a key, or boards by address. Seconds on a board: `limit` is
    what a candidate of tuning may take, `session` what timing a few networks may; a server ends
    what takes longer than its own --limit."""

    secret: str = field(repr=False)
    tracker: tuple[str, int] | None = None
    key: str = DEFAULT_KEY
    boards: tuple[Board, ...] = ()
    limit: float = 20.0
    session: float = 60.0

    def __str__(self) -> str:
        if self.tracker is None:
            return str(self.boards[0])
        return f"{self.key} at {self.tracker[0]}:{self.tracker[1]}"


def find_farm(
    tracker: str | None = None,
    key: str | None = None,
    devices: Sequence[str] | None = None,
    secret: Path | None = None,
) -> Farm | None:
    """What the options --tracker, --key, --device and --secret name; None where none is given.

    Raises UsageError for options that do not fit, FileError if the secret cannot be read.
    """
    if tracker is None and not devices:
        if key is not None or secret is not None:
            raise UsageError("--key and --secret go with --tracker or --device")
        return None
    if tracker is not None and devices:
        raise UsageError("give --tracker or --device, not both")
    if secret is None:
        raise UsageError("--secret: name the file with the secret that the servers were given")
    lines = read_text(secret).splitlines()
    word = lines[0].strip() if lines else ""
    if len(word) < 16 or " " in word:
        raise UsageError(f"{secret}: its first line must be a secret of 16 characters or more")
    key = key or DEFAULT_KEY
    if tracker is not None:
        return Farm(word, parse_address(tracker), key)
    boards = tuple(Board(*parse_address(text), key) for text in devices or ())
    return Farm(word, None, key, boards)


def parse_address(text: str) -> tuple[str, int]:
    """ "127.0.0.1:9190" -> its parts. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"address {text!r} is not like 192.168.1.20:9090")
    return host, int(port)


def probe_farm(farm: Farm) -> int:
    """How many boards there are to work with: those named by address, or those of the key that the
    tracker knows, at work for somebody else included. Each that is free is asked whether it
    answers, and if none is, the first that comes free; those that do not may do so later.

    Raises DeviceError where none does, saying why: no tracker, no server for the key, none came
    free in time, wrong secret.
    """
    known = 0
    if farm.tracker is None:
        boards = list(farm.boards)
    else:
        free, known = _count(farm)
        if not known:
            raise _no_board(farm)
        # a server that was just spoken to is away until it has started its next session
        boards = [request(farm) for _ in range(max(free, 1))]
    with ThreadPoolExecutor(min(len(boards), _AT_ONCE)) as pool:
        problems = list(filter(None, pool.map(lambda board: _problem(board, farm.secret), boards)))
    if len(problems) == len(boards):
        raise DeviceError(f"no board can be used: {problems[0]}")
    return max(len(boards), known)


def look_for_board(farm: Farm) -> None:
    """Raise DeviceError unless the first board named answers and takes the secret, or the tracker
    knows one of the key (which is not asked: its turn would be used up)."""
    if farm.tracker is None:
        greet(farm.boards[0], farm.secret)
    elif not _count(farm)[1]:
        raise _no_board(farm)


def _no_board(farm: Farm) -> DeviceError:
    assert farm.tracker is not None
    where = "{}:{}".format(*farm.tracker)
    return DeviceError(f"the tracker at {where} has no board for key {farm.key!r}")


def _problem(board: Board, secret: str) -> str | None:
    try:
        greet(board, secret)
    except DeviceError as error:
        return str(error)
    return None


def request(farm: Farm, go_on: Callable[[], bool] | None = None) -> Board:
    """The tracker's next free board.

    Raises DeviceError if none comes free in time; or, with `go_on`, which is asked all the time
    that this waits, when it says no.
    """
    assert farm.tracker is not None
    deadline = time.monotonic() + farm.limit  # the boards may all be at work
    with _tracker(farm.tracker) as connection:
        _send(connection, [_REQUEST, farm.key, "", 1])
        while not select.select([connection], [], [], _SLICE)[0]:
            if not (time.monotonic() < deadline if go_on is None else go_on()):
                raise DeviceError(f"no board for key {farm.key!r} came free")
        status, value = _read(connection)
    if status != 0:
        raise DeviceError(f"the tracker refused: {value}")
    with _sense():
        host, port, match = value
        board = Board(str(host), int(port), str(match))
    if not 0 < board.port < 2**16:
        raise DeviceError(f"the tracker names a board at port {board.port}, which is none")
    return board


def greet(board: Board, secret: str) -> None:
    """Connect, name key and secret, leave. Raises DeviceError if that is refused, or unanswered."""
    text = f"client:{board.match} -secret={secret}".encode()
    try:
        with socket.create_connection((board.host, board.port), timeout=_SECONDS) as connection:
            connection.sendall(struct.pack("<ii", _MAGIC, len(text)) + text)
            (code,) = struct.unpack("<i", _receive(connection, 4))
    except TimeoutError as error:
        raise DeviceError(f"the board at {board} did not answer in {_SECONDS:.0f} s") from error
    except (OSError, ValueError) as error:  # ValueError: what cannot be the name of a host
        raise DeviceError(f"the board at {board} cannot be reached: {error}") from error
    if code != _MAGIC:
        raise DeviceError(
            f"the board at {board} refused: wrong secret, or another key than its own"
        )


def _count(farm: Farm) -> tuple[int, int]:
    """Boards of the key: those that are free, and all."""
    assert farm.tracker is not None
    with _tracker(farm.tracker) as connection:
        _send(connection, [_SUMMARY])
        _, value = _read(connection)
    with _sense():
        free = int(value.get("queue_info", {}).get(farm.key, {}).get("free", 0))
        servers = [server.get("key") for server in value.get("server_info", [])]
    return free, servers.count(f"server:{farm.key}")


@contextmanager
def _tracker(address: tuple[str, int]) -> Iterator[socket.socket]:
    where = f"{address[0]}:{address[1]}"
    try:
        connection = socket.create_connection(address, timeout=_SECONDS)
    except OSError as error:
        raise DeviceError(f"no tracker at {where}: {error}") from error
    with connection:
        try:
            connection.sendall(struct.pack("<i", _TRACKER_MAGIC))
            (magic,) = struct.unpack("<i", _receive(connection, 4))
        except OSError as error:
            raise DeviceError(f"what listens at {where} is no tracker") from error
        if magic != _TRACKER_MAGIC:
            raise DeviceError(f"what listens at {where} is no tracker")
        yield connection


def _send(connection: socket.socket, value: list[Any]) -> None:
    text = json.dumps(value).encode()
    try:
        connection.sendall(struct.pack("<i", len(text)) + text)
    except OSError as error:
        raise DeviceError(f"the tracker is gone: {error}") from error


def _read(connection: socket.socket) -> tuple[int, Any]:
    try:
        (size,) = struct.unpack("<i", _receive(connection, 4))
        text = _receive(connection, size)
    except OSError as error:
        raise DeviceError(f"the tracker is gone: {error}") from error
    with _sense():
        answer = json.loads(text)
        return int(answer[0]), answer[1]


@contextmanager
def _sense() -> Iterator[None]:
    """Whatever a tracker's answer lacks is a DeviceError."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise DeviceError(f"the tracker's answer makes no sense: {first_line(error)}") from error
    except RecursionError as error:
        raise DeviceError("the tracker's answer makes no sense: it is nested too deep") from error


def _receive(connection: socket.socket, size: int) -> bytes:
    """So many bytes, all of them within seconds. Raises OSError."""
    if not 0 <= size <= _LARGEST:
        raise ConnectionError(f"it announced {size} bytes")
    deadline = time.monotonic() + _SECONDS
    parts = b""
    while len(parts) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        connection.settimeout(left)
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError("the connection was closed")
        parts += part
    return parts
