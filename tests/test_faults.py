"""One sentence for whatever a reader, or the user's own code, raises."""

import os
import socket
import zlib
from pathlib import Path

import pytest

from sepify.errors import FileError, InputError, PlanError, UsageError
from sepify.faults import reading, users_code, users_items
from sepify.storage.reading import open_file, read_bytes


class Panic(BaseException):
    """As extensions in Rust raise it: no Exception."""


class Speechless(Exception):
    def __str__(self):
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("weights"), "KeyError: 'weights'"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deep"),
        (MemoryError(), "not enough memory"),
        (OverflowError("int too large"), "OverflowError: int too large"),
        (zlib.error("Error -3\nand more"), "error: Error -3"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
        (PermissionError(13, "x"), "cannot read a.json: permission denied"),
        (FileNotFoundError(2, "x"), "no such file: a.json"),
        (OSError("broken data stream"), "broken data stream"),
        (AssertionError(), "AssertionError"),
        (Panic("index out of bounds"), "Panic: index out of bounds"),
        (Speechless(), "Speechless"),
        (SystemExit(3), "SystemExit: 3"),
        (ValueError("x" * 100_000), "x..."),
    ],
)
def test_whatever_a_reader_raises_names_the_file(error, said):
    with pytest.raises(FileError) as raised, reading("a.json", "a plan", "save it again"):
        raise error
    message = str(raised.value)
    assert "a.json" in message
    assert said in message
    assert message.endswith("; save it again")
    assert len(message.splitlines()) == 1
    assert len(message) < 600


def test_errors_of_ours_and_stops_pass_unchanged():
    for stop in (PlanError("as it is"), KeyboardInterrupt(), GeneratorExit()):
        for block in (reading("a", "a plan"), users_code("the metric f")):
            with pytest.raises(type(stop)) as raised, block:
                raise stop
            assert raised.value is stop


def test_whatever_a_users_code_raises_names_it_and_the_type():
    with (
        pytest.raises(InputError, match=r"^the metric f1 failed: KeyError: 'a'$"),
        users_code("the metric f1"),
    ):
        raise KeyError("a")
    with (
        pytest.raises(UsageError, match=r"^module nets failed: SystemExit: 2$"),
        users_code("module nets", UsageError),
    ):
        raise SystemExit(2)


def test_a_generator_that_raises_midway():
    def items():
        yield 1
        raise OSError("disk gone")

    taken = users_items(items(), "mine:items()")
    assert next(taken) == 1
    with pytest.raises(InputError, match=r"^mine:items\(\) failed: OSError: disk gone$"):
        next(taken)
    with pytest.raises(InputError, match="not iterable"):
        next(users_items(3, "mine:items()"))
    assert list(users_items(range(3), "x")) == [0, 1, 2]


def test_what_may_block_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for name, said in [
        (tmp_path / "pipe", "is a named pipe, not a file"),
        (tmp_path / "socket", "is a socket, not a file"),
        ("/dev/zero", "is a device, not a file"),
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "a\0b", "cannot read .*null"),
        (tmp_path / ("n" * 300), "file name too long"),
    ]:
        with pytest.raises(FileError, match=said):
            open_file(tmp_path / name)


def test_a_pipe_of_the_shell_is_read():
    out, into = os.pipe()
    os.write(into, b"[1]")
    os.close(into)
    assert read_bytes(Path(f"/dev/fd/{out}")) == b"[1]"
    os.close(out)


def test_a_file_that_is_too_large(tmp_path):
    (tmp_path / "large").write_bytes(bytes(5))
    assert read_bytes(tmp_path / "large", most=5) == bytes(5)
    with pytest.raises(FileError, match="more than"):
        read_bytes(tmp_path / "large", most=4)
