"""How much memory there is still, asked before something large is made."""

from __future__ import annotations

import resource
from pathlib import Path

from sepify.errors import InputError

# of a container's control group: limit, use, and the line of its statistics on cache to give back
_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
_ROOT = Path("/sys/fs/cgroup")


def require_memory(needed: int, what: str) -> None:
    """Raise InputError where `what` needs more bytes than there are; ask before allocating."""
    free = free_memory()
    if free is not None and needed > free:
        raise InputError(f"{what} needs {_large(needed)} of memory, and {_large(free)} are free")


def free_memory() -> int | None:
    """Bytes that this process can still get; None where the system does not tell."""
    found = [_free_of_limit(), _free_of_system(), *(_free_of_group(*names) for names in _GROUPS)]
    return min((free for free in found if free is not None), default=None)


def _free_of_system() -> int | None:
    facts = _numbers(Path("/proc/meminfo"))
    available = facts.get("MemAvailable")
    return None if available is None else (available + facts.get("SwapFree", 0)) * 1024


def _free_of_group(limit: str, use: str, cache: str) -> int | None:
    try:
        most, used = (int((_ROOT / name).read_text()) for name in (limit, use))
    except (OSError, ValueError):  # another version of control groups, or no limit ("max")
        return None
    statistics = _numbers((_ROOT / use).parent / "memory.stat")
    return max(0, most - used + statistics.get(cache, 0))


def _free_of_limit() -> int | None:
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    size = _numbers(Path("/proc/self/status")).get("VmSize")
    if most == resource.RLIM_INFINITY or size is None:
        return None
    return max(0, most - size * 1024)


def _numbers(path: Path) -> dict[str, int]:
    """The lines `name: number ...` or `name number` of a file of the system; empty without it."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


def _large(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count < 2**60 else f"{count:.0e} bytes"
