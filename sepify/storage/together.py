"""Several files that are written together: all of them, or none."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from sepify.errors import FileError
from sepify.faults import cause
from sepify.storage.atomic import atomic_path, scratch_folder

Stage = Callable[[Path | str], Path]


@contextmanager
def written_together() -> Iterator[Stage]:
    """Gives `stage(path)`: a temporary path beside `path`, of the same name, to write to. When the
    block ends, everything staged moves into place; if anything fails, the move of the last file or
    Ctrl-C included, every old file is as it was and no new one is there.

    One of the paths may be a folder: it moves last. A process that is killed between two moves can
    leave some files new and some old, each of them whole. Raises FileError, as `atomic_path` does.
    """
    staged: dict[Path, tuple[Path, ExitStack]] = {}
    with ExitStack() as discarded:

        def stage(path: Path | str) -> Path:
            path = Path(path)
            if path.is_symlink():
                path = Path(os.path.realpath(path))  # the link stays, as with `atomic_path`
            if path not in staged:
                mover = discarded.enter_context(ExitStack())
                staged[path] = (mover.enter_context(atomic_path(path)), mover)
            return staged[path][0]

        try:
            yield stage
        except FileError as error:  # it names the temporary path
            told = str(error)
            for path, (temporary, _) in staged.items():
                told = told.replace(str(temporary), str(path))
            raise FileError(told) from error
        files = [path for path, (temporary, _) in staged.items() if not temporary.is_dir()]
        folders = [path for path in staged if path not in files]
        with _interrupts_wait(), _restored_on_failure(files) as moved:
            for path in (*files, *folders):
                staged[path][1].close()
                moved.append(path)


@contextmanager
def _restored_on_failure(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Gives a list of those files that were replaced, which are put back if the block fails."""
    moved: list[Path] = []
    with ExitStack() as kept:
        old = {path: kept.enter_context(_second_name(path)) for path in files}
        try:
            yield moved
        except BaseException:
            for path in (path for path in moved if path in old):
                backup = old[path]
                if backup is None:
                    path.unlink(missing_ok=True)
                else:
                    backup.replace(path)
            raise


@contextmanager
def _second_name(path: Path) -> Iterator[Path | None]:
    """Another name for the file at `path`, beside it, while the block runs; None if there is none.
    A file system without hard links gets a copy."""
    if path.is_dir() or not os.path.lexists(path):
        yield None
        return
    with ExitStack() as removed:
        try:
            backup = removed.enter_context(scratch_folder(path.parent)) / "old"
            try:
                os.link(path, backup, follow_symlinks=False)
            except OSError:
                shutil.copy2(path, backup, follow_symlinks=False)
        except OSError as error:
            raise FileError(f"cannot write {path}: {cause(error)}; nothing was changed") from error
        yield backup


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits until the block has ended: moving takes milliseconds."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # other threads get no KeyboardInterrupt
        return
    waiting: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _number, frame: waiting.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            before(signal.SIGINT, waiting[0])
