"""What a process gives up for good before it opens what it does not trust.

Limits on memory, processor time and files hold on every POSIX system. On Linux the process also
gives up writing to the file system, starting programs and signalling others (Landlock), and the
network (a namespace of its own), as far as the kernel lets it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_FILES = 64  # open at once
_SET_DEATH_SIGNAL, _NO_NEW_PRIVILEGES, _KILL = 1, 38, 9  # prctl's
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # unshare's
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # system calls, the same on every architecture
_ABI_ONLY = 1
# Landlock's rights, by the version of its interface that brought them
_WRITING = {
    1: 0x1 | 0x2 | 0x1FF0,  # run a program, write to a file; remove and make files of all kinds
    2: 0x2000,  # move between folders
    3: 0x4000,  # truncate
    5: 0x8000,  # ioctl on devices
}
_NETWORK = {4: 0x1 | 0x2}  # bind, connect
_OUTSIDE = {6: 0x1 | 0x2}  # abstract sockets, signals


@dataclass(frozen=True)
class Limits:
    """Seconds of processor time and bytes of memory, on top of what a process has had already."""

    seconds: float
    memory: int


def confine(limits: Limits) -> None:
    """Put the calling process under `limits`, with no way back. What the system lacks is left out;
    the limits of the environment, where they are tighter, stay."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.prctl(_SET_DEATH_SIGNAL, _KILL, 0, 0, 0)  # a parent that is killed takes it along
        with contextlib.suppress(OSError):  # out of memory, it is the first to go
            Path("/proc/self/oom_score_adj").write_text("1000")
        library.unshare(_NEW_USER | _NEW_NETWORK)
        _give_up_writing(library)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory)
    seconds = max(1, round(time.process_time() + limits.seconds))
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)  # SIGXCPU says why, SIGKILL comes after it
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _FILES)


def _limit(kind: int, most: int, hard: int | None = None) -> None:
    there = [limit for limit in resource.getrlimit(kind) if limit != resource.RLIM_INFINITY]
    soft = min([most, *there])
    resource.setrlimit(kind, (soft, min([hard or most, *there])))


def _give_up_writing(library: ctypes.CDLL) -> None:
    library.syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    abi = library.syscall(_CREATE_RULESET, None, 0, _ABI_ONLY)
    if abi < 1:
        return  # not in this kernel, or switched off
    rights = [
        sum(right for since, right in table.items() if since <= abi)
        for table in (_WRITING, _NETWORK, _OUTSIDE)
    ]
    size = 8 * (1 + (abi >= 4) + (abi >= 6))  # what the kernel's version knows of
    attributes = ctypes.create_string_buffer(struct.pack("=3Q", *rights))
    ruleset = library.syscall(_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    library.syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_long]
    library.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def spare_memory() -> int | None:
    """Bytes that this machine, and the container around this process, could still give; None where
    the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        told = Path("/proc/meminfo").read_text().split("MemAvailable:")[1]
        found.append(int(told.split()[0]) << 10)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text())  # "max" where there is no limit
        found.append(most - int((group / "memory.current").read_text()))
    return min(found, default=None)
