"""Writes that are whole or absent, whatever fails or is killed on the way.

What is new grows in a scratch folder beside its place, is flushed to the disk, and takes the place
in one step. Scratch folders are called `.sepify-` and 16 digits; each holds a lock that its writer
keeps, so that a later write in the same folder knows what a dead one left, and removes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sepify.errors import FileError
from sepify.faults import cause
from sepify.storage.exchange import exchange

_SCRATCH = re.compile(r"\.sepify-[0-9a-f]{16}")
_TRIES = 100  # of a step that another writer gets in the way of
_in_use: set[Path] = set()  # this process's scratch folders


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path of the same name, for a file or a folder; moved over `path` if the block
    succeeds, removed if it fails. What was at `path` is replaced in one step and lends its
    permissions; a symbolic link stays, and what it leads to is replaced.

    Within the folder of another `atomic_path` this is `path` itself: the outer one makes it whole.

    Raises FileError if the place cannot be written or the disk is full.
    """
    path = Path(path)
    made: list[Path] = []
    try:
        destination = _destination(path)
        made = _make_parents(destination.parent)
        if any(_SCRATCH.fullmatch(part) for part in destination.parent.parts):
            yield destination
            return
        with scratch_folder(destination.parent) as scratch:
            (scratch / "new").mkdir()
            temporary = scratch / "new" / destination.name
            with _named(temporary, path):
                yield temporary
            _take_mode(temporary, destination)
            _flush(temporary)
            _put(temporary, destination, scratch / "old")
        with suppress(OSError):
            _flush_one(destination.parent)
    except OSError as error:
        _remove_empty(made)
        raise FileError(f"cannot write {path}: {cause(error)}; nothing was changed") from error
    except BaseException:
        _remove_empty(made)
        raise


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end; those that dead writers left are removed first.
    Raises OSError."""
    _sweep(parent)
    for _ in range(_TRIES):
        scratch = parent / f".sepify-{secrets.token_hex(8)}"
        scratch.mkdir(mode=0o700)
        try:
            lock = _lock(scratch)
            break
        except (FileNotFoundError, BlockingIOError) as error:  # somebody swept it already
            fault = error
    else:
        raise fault
    _in_use.add(scratch)
    try:
        yield scratch
    finally:
        _remove(scratch)
        _in_use.discard(scratch)
        os.close(lock)


def discard_scratch() -> None:
    """Remove this process's scratch folders, before it ends without unwinding. One to which
    something was moved away is left: the next writer puts that back."""
    for scratch in tuple(_in_use):
        if not (scratch / "old").exists():
            _remove(scratch)


@contextmanager
def _named(temporary: Path, path: Path) -> Iterator[None]:
    """Within it, what a FileError says of a temporary path it says of the one that is meant."""
    try:
        yield
    except FileError as error:
        told = str(error).replace(str(temporary), str(path))
        told = told.replace(str(temporary.parent), str(path.parent))
        raise FileError(told) from error


def _destination(path: Path) -> Path:
    """The file or folder that is to be replaced: what `path` leads to if it is a link."""
    if path.name in ("", "..") or "\0" in str(path):
        raise FileError(f"cannot write {path}: that is no name of a file or folder")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except UnicodeEncodeError as error:
        raise FileError(f"cannot write {path}: this system cannot encode that name") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileError(f"cannot write {path}: it is a device or a pipe; give the name of a file")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _make_parents(folder: Path) -> list[Path]:
    """Make `folder`; returns what had to be made for it, the outermost last."""
    missing = []
    for parent in (folder, *folder.parents):
        if parent.exists():
            break
        missing.append(parent)
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _take_mode(new: Path, old: Path) -> None:
    """Give `new` the permissions and, where that is allowed, the owner of what it replaces."""
    try:
        had, has = old.stat(), new.stat()
    except FileNotFoundError:
        return
    if stat.S_IFMT(had.st_mode) == stat.S_IFMT(has.st_mode):
        new.chmod(had.st_mode & 0o777)
        if (had.st_uid, had.st_gid) != (has.st_uid, has.st_gid):
            with suppress(OSError):
                os.chown(new, had.st_uid, had.st_gid)


def _flush(path: Path) -> None:
    """Let the disk have a file, or a folder with all that is in it, before it is called whole."""
    if path.is_dir():
        for folder, _, files in os.walk(path):
            for name in files:
                _flush_one(Path(folder, name))
            _flush_one(Path(folder))
    else:
        _flush_one(path)


def _flush_one(path: Path) -> None:
    if not (path.is_dir() or path.is_file()):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that cannot
            raise
    finally:
        os.close(descriptor)


def _put(new: Path, path: Path, old: Path) -> None:
    """Move `new` to `path`. A folder that is there is exchanged with it; where the system cannot do
    that in one step, it is moved to the folder `old` first."""
    for _ in range(_TRIES):
        try:
            if new.is_dir() and path.is_dir():
                _swap(new, path, old)
            else:
                new.replace(path)
            return
        except OSError as error:  # another writer was there between the question and the step
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and path.exists():
                raise
            fault = error
    raise fault


def _swap(new: Path, path: Path, old: Path) -> None:
    try:
        exchange(new, path)
        return
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
    old.mkdir(exist_ok=True)
    aside = old / path.name
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise


def _lock(scratch: Path) -> int:
    """The lock of a scratch folder, held until it is closed (on a file system without locks it is
    only there). Raises FileNotFoundError or BlockingIOError where somebody took it for a dead one's
    before it was held."""
    import fcntl

    path = scratch / "lock"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # then nobody else can lock it either, and nobody removes it
            return descriptor
        path.stat()
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(parent: Path) -> None:
    """Remove the scratch folders in `parent` that belong to this user and to no living writer."""
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if _SCRATCH.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                        _remove_dead(Path(entry.path))


def _remove_dead(scratch: Path) -> None:
    """Remove a scratch folder unless its lock is held. What a swap in two steps had moved away is
    put back if nothing took its place. Raises OSError where the writer lives."""
    import fcntl

    try:
        descriptor = os.open(scratch / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        scratch.rmdir()  # its writer died with nothing in it, or takes another
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        old = scratch / "old"
        for moved in old.iterdir() if old.is_dir() else ():
            if not os.path.lexists(scratch.parent / moved.name):
                moved.rename(scratch.parent / moved.name)
        _remove(scratch)
    finally:
        os.close(descriptor)


def _remove(scratch: Path) -> None:
    """Remove a scratch folder, its lock last: it says that there is something to remove."""
    for name in ("new", "old"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)
