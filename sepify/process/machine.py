"""The machine that measured, and the versions of what ran on it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPORTED = ("sepify", "torch", "onnxruntime", "apache-tvm", "numpy")
EXTENSIONS = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "asimd", "sve", "neon")


@dataclass(frozen=True)
class Machine:
    """Where latencies were taken. `governor` (of the clock) is None where the system does not
    tell; `extensions` are the vector units that count for a network."""

    cpu: str
    cpus: int  # that this process may use
    extensions: tuple[str, ...]
    system: str
    governor: str | None


def this_machine() -> Machine:
    """What the operating system tells of the machine that we run on."""
    facts = cpuinfo()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return Machine(
        cpu=facts.get("model name") or platform.processor() or platform.machine(),
        cpus=usable_cpus(),
        extensions=tuple(name for name in EXTENSIONS if name in flags),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        governor=governor.read_text().strip() if governor.is_file() else None,
    )


def busy_cpu_seconds() -> float | None:
    """CPU seconds that all processes, and a hypervisor's other guests at our expense, have used
    since the machine started; None where the system does not tell. In steps of 10 ms a CPU."""
    path = Path("/proc/stat")
    if not path.is_file():
        return None
    # man 5 proc: cpu user nice system idle iowait irq softirq steal guest guest_nice
    ticks = [int(field) for field in path.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_versions() -> dict[str, str]:
    """Python's version and those of the packages that take part in a measurement."""
    versions = {"python": platform.python_version()}
    for name in REPORTED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def cpuinfo() -> dict[str, str]:
    """The first processor's lines in /proc/cpuinfo; empty where the system is not Linux."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text().splitlines() if ":" in line)
    facts: dict[str, str] = {}
    for key, _, value in pairs:
        facts.setdefault(key.strip(), value.strip())
    return facts
