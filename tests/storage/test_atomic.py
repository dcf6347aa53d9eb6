"""Writes that are whole or absent: kills at every step, racing writers, odd places."""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sepify.errors import FileError
from sepify.storage import atomic, atomic_path, require_writable, write_text

FILES = ("one", "two", "three")
CHANGES = {"mkdir", "open", "flock", "chmod", "rename", "replace", "unlink", "rmdir", "close"}


def write_folder(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.mkdir()
        for name in FILES:
            (temporary / name).write_text(content)


def write_file(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content * 3)


def content_of(path: Path) -> set[str]:
    if path.is_dir():
        return {(path / name).read_text() for name in FILES}
    text = path.read_text()
    return {text[: len(text) // 3]} if text == text[: len(text) // 3] * 3 else {text}


def in_child(work: Callable[[], None]) -> int:
    """The status that a child ends with after `work`."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def kill_at(step: int) -> Callable[..., None]:
    """A profiler that kills its process before the `step`th call that changes the disk."""
    steps = 0

    def count(_frame: Any, event: str, argument: Any) -> None:
        nonlocal steps
        if event == "c_call" and argument.__name__ in CHANGES:
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    return count


def no_exchange(_first: Path, second: Path) -> None:
    raise OSError(errno.EINVAL, "not here", str(second))


@pytest.mark.parametrize(
    ("write", "exchanges"), [(write_file, True), (write_folder, True), (write_folder, False)]
)
def test_killed_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None], exchanges: bool
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # a kill loses no pages
    if not exchanges:
        monkeypatch.setattr(atomic, "exchange", no_exchange)
    path = tmp_path / "place"
    for step in range(1, 1000):
        write(path, "old")

        def killed(step: int = step) -> None:
            sys.setprofile(kill_at(step))
            write(path, "new")

        status = in_child(killed)
        if exchanges or path.exists():
            assert content_of(path) in ({"old"}, {"new"})
        else:  # in two steps it may be missing, until the next write puts it back
            write_text(tmp_path / "other", "x")
            assert content_of(path) == {"old"}
            (tmp_path / "other").unlink()
        write(path, "last")
        assert content_of(path) == {"last"}
        assert [entry.name for entry in tmp_path.iterdir()] == ["place"]
        if status == 0:
            break
    assert 15 < step < 999
    assert not os.WIFSIGNALED(status)


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_racing_writers_never_harm_each_other(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "place"
    write(path, "first")

    def writes() -> None:
        for turn in range(25):
            write(path, f"{os.getpid()}-{turn}")

    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                writes()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    seen = 0
    while children:
        assert path.exists()  # at no moment is there nothing
        seen += 1
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            assert status == 0
            children.remove(child)
    assert seen > 10
    assert len(content_of(path)) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["place"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "slow") as temporary:
        temporary.write_text("half")
        write_text(tmp_path / "fast", "x")
        temporary.write_text("whole")
    assert (tmp_path / "slow").read_text() == "whole"


def test_only_our_own_scratch_is_swept(tmp_path: Path) -> None:
    mine = tmp_path / ".sepify-notes"
    mine.mkdir()
    (mine / "lock").write_text("")
    target = tmp_path / "target"
    target.mkdir()
    (target / "lock").write_text("")
    link = tmp_path / ".sepify-0123456789abcdef"
    link.symlink_to(target)
    odd = tmp_path / ".sepify-fedcba9876543210"
    odd.mkdir()
    os.mkfifo(odd / "lock")  # would block whoever opens it
    write_text(tmp_path / "plan.json", "{}")
    assert (mine / "lock").exists()
    assert (target / "lock").exists()
    assert link.is_symlink()


def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    write_file(tmp_path / ("n" * 255), "x")
    write_folder(tmp_path / ("f" * 255), "x")
    write_folder(tmp_path / ("f" * 255), "y")
    assert sorted(len(entry.name) for entry in tmp_path.iterdir()) == [255, 255]
    with pytest.raises(FileError, match="cannot write .*file name too long"):
        write_file(tmp_path / ("n" * 256), "x")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    for write, name in ((write_file, "file"), (write_folder, "folder")):
        real, link = tmp_path / "disk" / name, tmp_path / name
        link.symlink_to(real)
        for content in ("one", "two"):
            write(link, content)
            assert link.is_symlink()
            assert content_of(real) == {content}
    assert sorted(entry.name for entry in (tmp_path / "disk").iterdir()) == ["file", "folder"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileError, match="cannot write .*loop"):
        write_file(tmp_path / "loop", "x")


def test_permissions_of_what_is_replaced_are_kept(tmp_path: Path) -> None:
    for write, mode in ((write_file, 0o600), (write_file, 0o664), (write_folder, 0o750)):
        path = tmp_path / f"{write.__name__}-{mode:o}"
        write(path, "one")
        path.chmod(mode)
        write(path, "two")
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert content_of(path) == {"two"}


def test_places_that_no_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for place, message in {
        ".": "no name",
        "..": "no name",
        "folder/..": "no name",
        "": "no name",
        "a\0b": "no name",
        "\ud800": "cannot encode",
        "pipe": "a device or a pipe",
        "/dev/null": "a device or a pipe",
        "folder": "is a directory",
    }.items():
        with pytest.raises(FileError, match=f"cannot write .*{message}"):
            write_text(place, "x")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_a_failed_write_leaves_no_folders(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a" / "b" / "c") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_failed_swap_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle"
    write_folder(path, "old")
    monkeypatch.setattr(atomic, "exchange", no_exchange)

    def fails(_self: Path, _to: Path) -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(FileError, match="nothing was changed"), atomic_path(path) as temporary:
        temporary.mkdir()
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda old, to: (fails if old == temporary else rename)(old, to)
        )
    assert content_of(path) == {"old"}
    assert os.listdir(tmp_path) == ["bundle"]


def test_within_another_write_nothing_is_moved_twice(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "bundle") as outer:
        outer.mkdir()
        with atomic_path(outer / "weights") as inner:
            assert inner == outer / "weights"
            inner.write_text("x")
    assert (tmp_path / "bundle" / "weights").read_text() == "x"


def test_what_is_written_is_flushed_before_it_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        assert (tmp_path / "bundle").exists() == (flushed[-1] == tmp_path.name)
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", noted)
    write_folder(tmp_path / "bundle", "x")
    assert sorted(flushed[:-1]) == sorted([*FILES, "bundle"])
    assert flushed[-1] == tmp_path.name


def test_asking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path)
    assert os.listdir(tmp_path) == []
