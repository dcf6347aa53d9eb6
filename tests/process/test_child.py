"""Work in a child process: how it may end, and what it cannot do."""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time

import psutil
import pytest
import torch

from sepify.errors import FileError, InputError
from sepify.formats.torchscript_read import run_model
from sepify.process.child import Ending, _read_answer, do_in_child
from sepify.process.confinement import Limits

LIMITS = Limits(seconds=1, memory=1 << 30)


def children():
    return {child.pid for child in psutil.Process().children()}


def succeed(request):
    (torch.ones(request["size"]) @ torch.ones(request["size"])).item()


def refuse(_):
    raise InputError("it is too green")


def fail(_):
    raise KeyError("odd")


def loop(_):
    while True:
        pass


def sleep(_):
    time.sleep(60)


def allocate(_):
    torch.zeros(1 << 40)


def swallow(_):
    kept = []
    while True:
        kept.append(bytearray(1 << 24))


def crash(_):
    ctypes.string_at(8)


def leave(_):
    os._exit(3)


def write(request):
    with open(request["path"], "r+b") as file:
        file.write(b"harm")


def truncate(request):
    os.truncate(request["path"], 0)


def remove(request):
    os.remove(request["path"])


def make(request):
    os.mkdir(request["path"] + ".new")


def connect(request):
    socket.create_connection(("127.0.0.1", request["port"]), timeout=5)


def start_a_program(_):
    os.execv(sys.executable, [sys.executable, "-c", "pass"])


def use_descriptors(request):
    os.write(request["descriptor"], b"harm")


@pytest.mark.parametrize(
    ("work", "ending"),
    [
        (succeed, Ending("done")),
        (fail, Ending("error", "KeyError: 'odd'")),
        (loop, Ending("time")),
        (crash, Ending("crash", "SIGSEGV")),
        (leave, Ending("crash", "it gave no answer")),
    ],
)
def test_every_ending_is_told(work, ending):
    before = children()
    assert do_in_child(work, {"size": 100_000}, LIMITS) == ending
    assert children() == before


def test_what_only_waits_is_ended_too():
    assert do_in_child(sleep, {}, Limits(1, 1 << 30)) == Ending("time")


@pytest.mark.parametrize("work", [allocate, swallow])
def test_too_much_memory_is_told(work):
    assert do_in_child(work, {}, Limits(20, 1 << 28)).kind == "memory"


def test_our_own_errors_come_back_as_they_were():
    with pytest.raises(InputError, match="it is too green"):
        do_in_child(refuse, {}, LIMITS)


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock")
@pytest.mark.parametrize("work", [write, truncate, remove, make, start_a_program])
def test_nothing_can_be_written_or_started(work, tmp_path):
    file = tmp_path / "mine"
    file.write_bytes(b"my thesis")
    ending = do_in_child(work, {"path": str(file)}, LIMITS)
    assert ending.kind == "error"
    assert "PermissionError" in ending.detail
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"my thesis"]


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock, or a namespace")
def test_nobody_can_be_called():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ending = do_in_child(connect, {"port": server.getsockname()[1]}, LIMITS)
    assert ending.kind == "error"


def test_the_parents_descriptors_are_closed(tmp_path):
    with (tmp_path / "open").open("wb") as file:
        ending = do_in_child(use_descriptors, {"descriptor": file.fileno()}, LIMITS)
    assert ending.kind == "error"
    assert (tmp_path / "open").read_bytes() == b""


@pytest.fixture
def interrupted_soon():
    """Ctrl-C in half a second, without a thread, which would forbid to fork."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_ctrl_c_ends_it_and_the_child(interrupted_soon):
    before = children()
    with pytest.raises(KeyboardInterrupt):
        do_in_child(sleep, {}, Limits(100, 1 << 30))
    assert children() == before


def test_beside_another_thread_a_new_interpreter_does_it():
    """It cannot find this file's functions: one of sepify's own is asked for."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(FileError, match="no such file: none.pt"):
            do_in_child(run_model, {"spec": "none.pt", "shapes": [], "dtypes": []}, LIMITS)
    finally:
        done.set()
        thread.join()


def test_what_the_child_says_is_not_trusted():
    for said in (b"", b"[]", b"{", b"[" * 100_000, b'{"kind": "raised", "type": "SystemExit"}'):
        assert _read_answer(said).kind == "crash"
    raised = json.dumps({"kind": "raised", "type": "InputError", "detail": "no"}).encode()
    with pytest.raises(InputError):
        _read_answer(raised)
