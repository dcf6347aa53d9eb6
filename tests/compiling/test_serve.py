"""The board's server among strangers, and our clients among hostile servers: loopback only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sepify.compiling.device import boards
from sepify.compiling.device.boards import Board, find_farm, greet, request
from sepify.errors import DeviceError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
SECRET = "a-secret-of-its-own"  # of tests/conftest.py
MAGIC, REFUSED = struct.pack("<i", 0xFF271), struct.pack("<i", 0xFF271 + 2)


def hello(port: int, text: str = f"client:board -secret={SECRET}") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(struct.pack("<ii", 0xFF271, len(text)) + text.encode())
    return connection


def answer(port: int, text: str = f"client:board -secret={SECRET}") -> bytes:
    with hello(port, text) as connection:
        return connection.recv(4)


def test_silent_strangers_hold_up_nobody(start):
    _, port = start()
    with ExitStack() as strangers:
        for _ in range(200):  # more than it hears at once
            stranger = strangers.enter_context(socket.create_connection(("127.0.0.1", port)))
            with suppress(OSError):
                stranger.send(b"\x71")
        assert answer(port) == MAGIC


def test_a_stranger_who_drips_is_turned_away(start):
    _, port = start()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as stranger:
        ended = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                for byte in struct.pack("<ii", 0xFF271, 900) + b"c" * 900:
                    stranger.send(bytes([byte]))
                    if ended.wait(0.2):
                        return

        threading.Thread(target=drip, daemon=True).start()
        with suppress(ConnectionError):
            assert stranger.recv(4) == b""
        ended.set()


def test_one_session_at_a_time_and_the_next_in_turn(start):
    _, port = start("--limit", "20")
    with hello(port) as first:
        assert first.recv(4) == MAGIC
        with hello(port) as second:
            second.settimeout(0.5)
            with pytest.raises(TimeoutError):
                second.recv(4)
            assert answer(port, "client:board -secret=wrong") == REFUSED  # at once, meanwhile
            first.close()
            second.settimeout(30)
            assert second.recv(4) == MAGIC


@pytest.mark.parametrize("answers", [b"", struct.pack("<i", 0x2F271)])
def test_a_silent_tracker_delays_nobody(start, answers):
    with socket.create_server(("127.0.0.1", 0)) as tracker:
        where = f"127.0.0.1:{tracker.getsockname()[1]}"
        process, port = start("--tracker", where)
        connection, _ = tracker.accept()
        with connection:
            connection.sendall(answers)
            assert answer(port) == MAGIC
            process.terminate()
            assert process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_its_session_and_leaves_nothing(start, number):
    before = set(Path("/tmp").glob("sepify-serve-*"))
    process, port = start()
    with hello(port) as session, socket.create_connection(("127.0.0.1", port)):
        assert session.recv(4) == MAGIC
        folders = set(Path("/tmp").glob("sepify-serve-*")) - before  # other tests may run servers
        assert folders
        process.send_signal(number)
        assert process.wait(30) == 0
        assert not all(folder.exists() for folder in folders)
        with suppress(ConnectionError):
            while session.recv(100):
                pass


def test_nobody_reading_what_it_says_does_not_stop_it(start):
    process, port = start()  # its output is a pipe, which nobody empties
    for _ in range(4_000):
        with hello(port, "client:board -secret=wrong") as stranger:
            stranger.recv(4)
    assert answer(port) == MAGIC
    assert len(os.listdir(f"/proc/{process.pid}/fd")) < 12


def serve_once(reply: bytes):
    """A server that answers whatever comes with `reply`, then says no more; its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with server, server.accept()[0] as connection, suppress(OSError):
            connection.recv(100)
            connection.sendall(reply)
            connection.settimeout(5)
            while connection.recv(1000):
                pass

    threading.Thread(target=run, daemon=True).start()
    return server.getsockname()[1]


def said(text: bytes, size: int | None = None) -> bytes:
    return struct.pack("<ii", 0x2F271, len(text) if size is None else size) + text


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n",
        said(b"", 2**31 - 1),
        said(b"", -1),
        said(b"x", 1000),
        said(b"\xff"),
        said(b"[" * 100_000),
        said(b"1" * 5_000),
        said(b"[]"),
        said(b"[0]"),
        said(b"{}"),
        said(b"null"),
        said(b'[0, "x"]'),
        said(b'["\x1b[31m", {}]'),
        said(b'[7, "\\u001b[31mno"]'),
        said(b"[0, [1, 2]]"),
        said(b'[0, ["127.0.0.1", 99999, "k"]]'),
        said(b'[0, ["127.0.0.1", 1e400, "k"]]'),
        said(b'[0, ["127.0.0.1", {}, "k"]]'),
    ],
)
def test_whatever_a_tracker_answers_is_one_sentence(reply, secret, monkeypatch):
    monkeypatch.setattr(boards, "_SECONDS", 1.0)
    farm = find_farm(f"127.0.0.1:{serve_once(reply)}", None, None, secret)
    deadline = time.monotonic() + 2
    with pytest.raises(DeviceError) as caught:
        request(farm, lambda: time.monotonic() < deadline)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reply", [b"", b"\0", b"\xff" * 4, REFUSED, b"HTTP/1.1 400"])
def test_whatever_a_board_answers_is_one_sentence(reply, monkeypatch):
    monkeypatch.setattr(boards, "_SECONDS", 1.0)
    with pytest.raises(DeviceError, match="the board at 127"):
        greet(Board("127.0.0.1", serve_once(reply), "board"), SECRET)


@pytest.mark.parametrize("host", ["a" * 70, "\udcff", "..", "a\0b", "é" * 300])
def test_an_impossible_host_is_one_sentence(host):
    with pytest.raises(DeviceError):
        greet(Board(host, 1, "board"), SECRET)
