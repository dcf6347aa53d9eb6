"""The CPUs that we compile for: presets by name, the CPU that we run on, or a JSON file."""

from __future__ import annotations

import difflib
import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sepify.compiling.kernels.instruction_sets import (
    AVX2,
    AVX512,
    NEON_V7,
    NEON_V8,
    instruction_set,
)
from sepify.compiling.kernels.machine import Machine
from sepify.errors import UsageError
from sepify.storage import read_json

# of a target file, which says no lanes and registers: what any such CPU has, or nearly any
_USUAL = {"aarch64": NEON_V8, "armv7": NEON_V7, "x86_64": AVX2}

# Networks that TVM 0.27 compiled with SVE came out wrong (run at 256 bits, as on a Graviton3); the
# own kernels are NEON anyway.
_NO_SVE = ("-sve", "-sve2")

_AARCH64_WHEELS = "manylinux_2_28_aarch64"
_X86_WHEELS = "manylinux_2_28_x86_64"

# of a target file: key -> type
_FILE_KEYS: dict[str, type] = {
    "name": str,
    "triple": str,
    "cpu": str,
    "features": list,
    "float_abi": str,
    "cores": int,
    "compiler": str,
    "lanes": int,
    "registers": int,
}


_MOST = 4096  # cores
_LANES = (4, 8, 16, 32)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# of a target file, which may be a stranger's: it names no program but a C compiler on the PATH
_WORDS = {
    "name": re.compile(r"[^/\0\n]{1,100}"),
    "triple": _WORD,
    "cpu": _WORD,
    "features": re.compile(r"[+-][A-Za-z0-9][A-Za-z0-9._-]*"),
    "float_abi": re.compile("hard|soft"),
    "compiler": re.compile(r"([A-Za-z0-9_.]+-)*(cc|gcc|clang|c\+\+|g\+\+|clang\+\+)(-[0-9.]+)?"),
}
_MEANT = {
    "name": "a short name",
    "triple": "like aarch64-linux-gnu",
    "cpu": "like cortex-a55",
    "features": 'like "+dotprod"',
    "float_abi": '"hard" or "soft"',
    "compiler": "the name of a C compiler on the PATH, like aarch64-linux-gnu-gcc",
}


@dataclass(frozen=True)
class Target:
    """A CPU. `description` is TVM's target as a dict; None for the CPU that we run on.

    `compiler` is the C compiler that links for it; `wheels` the platform of the packages that hold
    TVM's runtime for it, "" where there are none.
    """

    name: str
    summary: str
    description: dict[str, Any] | None
    machine: Machine | None
    cores: int = 1
    compiler: str = "cc"
    wheels: str = ""

    @property
    def triple(self) -> str:
        """What the code runs on, as LLVM writes it; "" for the CPU that we run on."""
        return str((self.description or {}).get("mtriple", ""))

    @property
    def details(self) -> str:
        """Triple, CPU, features, cores and compiler in one line; "" for the CPU that we run on."""
        if self.description is None:
            return ""
        parts = [self.triple, str(self.description["mcpu"]), *self.description.get("mattr", ())]
        return f"{' '.join(parts)}, {self.cores} cores, {self.compiler}"

    @property
    def architecture(self) -> str:
        """x86_64, aarch64 or armv7, as far as the triple tells."""
        if not self.triple:
            return host_architecture()
        return _architecture(self.triple)

    @property
    def is_foreign(self) -> bool:
        """Whether this machine's processor or system cannot run its code, whatever the features."""
        system = "linux" in self.triple and "android" not in self.triple
        return bool(self.triple) and (self.architecture != host_architecture() or not system)


def targets() -> tuple[Target, ...]:
    """All presets."""
    return _PRESETS


def host_architecture() -> str:
    """The architecture of this machine, in the words of `Target.architecture`."""
    return _architecture(platform.machine())


def find_target(name: str | Target) -> Target:
    """The preset of that name, `native` filled in with what LLVM says about this CPU (loads tvm).
    A Target is given back as it is, filled in likewise.

    Raises UsageError offering the nearest names.
    """
    if isinstance(name, str):
        known = {target.name: target for target in _PRESETS}
        if name not in known:
            near = difflib.get_close_matches(name, known, cutoff=0.4) or list(known)
            raise UsageError(f"unknown target {name!r}; did you mean {' or '.join(near)}?")
        target = known[name]
    else:
        from sepify.compiling import tvm_api

        target = name
        if target.description is not None and target not in _PRESETS:
            tvm_api.require_cpu(target.triple, str(target.description["mcpu"]))
    return target if target.description is not None else _detect(target)


def read_target(path: Path | str) -> Target:
    """A target from a JSON file: `triple` and `cpu`, and where the defaults do not fit `name`,
    `features` (`["+dotprod"]`), `float_abi` ("hard" or "soft"), `cores`, `compiler`, and the
    vectors: `lanes` of float32 and `registers`.

    Raises FileError for no JSON, UsageError naming a key that is missing, unknown or of the wrong
    kind.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UsageError(f"{path}: a target is a JSON object with triple and cpu")
    for key, item in value.items():
        if key not in _FILE_KEYS:
            raise UsageError(f"{path}: unknown key {key!r}; known: {', '.join(_FILE_KEYS)}")
        kind = _FILE_KEYS[key]
        if type(item) is not kind:
            raise UsageError(f"{path}: {key} must be a {kind.__name__}, not {item!r}")
        if isinstance(item, int) and not 1 <= item <= _MOST:
            raise UsageError(f"{path}: {key} must be 1 to {_MOST}, not {item}")
        words = item if isinstance(item, list) else [item] if isinstance(item, str) else []
        for word in words:
            if not isinstance(word, str) or not _WORDS[key].fullmatch(word):
                raise UsageError(f"{path}: {key} {word!r} is not {_MEANT[key]}")
    for key in ("triple", "cpu"):
        if key not in value:
            raise UsageError(f"{path}: {key} is missing; for example aarch64-linux-gnu, cortex-a55")
    description = {"kind": "llvm", "mtriple": value["triple"], "mcpu": value["cpu"]}
    architecture = _architecture(value["triple"])
    if architecture == "armv7":
        description["mfloat-abi"] = value.get("float_abi", "hard")
        description["mattr"] = value.get("features", ["+neon", "+vfp4"])
    else:
        features = value.get("features", ["+neon"] if architecture == "aarch64" else [])
        if {"+sve", "+sve2"} & set(features):
            raise UsageError(f"{path}: +sve: TVM compiles wrong code with it; leave it out")
        none = _NO_SVE if architecture == "aarch64" else ()
        if features or none:
            description["mattr"] = [*features, *none]
    if architecture not in _USUAL:
        raise UsageError(f"{path}: triple {value['triple']!r}: only x86-64, aarch64 and armv7")
    features = [feature.removeprefix("+") for feature in description.get("mattr", ())]
    machine = _USUAL[architecture].machine(features)
    machine = replace(
        machine,
        lanes=value.get("lanes", machine.lanes),
        registers=value.get("registers", machine.registers),
    )
    if machine.registers not in (16, 32):
        raise UsageError(f"{path}: registers must be 16 or 32, not {machine.registers}")
    if machine.lanes not in _LANES:
        raise UsageError(f"{path}: lanes must be 4, 8, 16 or 32, not {machine.lanes}")
    linux = "linux-gnu" in value["triple"]
    wheels = {"aarch64": _AARCH64_WHEELS, "x86_64": _X86_WHEELS}.get(architecture, "")
    compilers = {
        "aarch64": "aarch64-linux-gnu-gcc",
        "armv7": "arm-linux-gnueabihf-gcc",
        "x86_64": "x86_64-linux-gnu-gcc",
    }
    return _target(
        value.get("name", Path(path).stem),
        f"from {Path(path).name}",
        description,
        machine,
        value.get("cores", 1),
        value.get("compiler", compilers[architecture]),
        wheels if linux else "",
    )


def _detect(target: Target) -> Target:
    from sepify.compiling import tvm_api

    present = tvm_api.host_features()
    description: dict[str, Any] = {"kind": "llvm", "mcpu": tvm_api.host_cpu()}
    # a hypervisor may hide what the model of CPU would have
    hidden = tvm_api.code_features(tvm_api.make_target(description)) - present
    if hidden:
        description["mattr"] = [f"-{feature}" for feature in sorted(hidden)]
    if host_architecture() == "aarch64":
        description["mattr"] = sorted({*description.get("mattr", ()), *_NO_SVE})
    vectors = instruction_set(host_architecture(), str(description["mcpu"]), present)
    cores = os.cpu_count() or 1
    machine = replace(vectors.machine(present), max_tasks=2 * cores)
    wheels = {"aarch64": _AARCH64_WHEELS, "x86_64": _X86_WHEELS}.get(host_architecture(), "")
    return replace(target, description=description, machine=machine, cores=cores, wheels=wheels)


def _architecture(triple: str) -> str:
    first = triple.partition("-")[0].lower()
    if first in ("aarch64", "arm64"):
        return "aarch64"
    if first in ("x86_64", "amd64"):
        return "x86_64"
    return "armv7" if first.startswith(("armv7", "arm")) else first


def _target(
    name: str,
    summary: str,
    description: dict[str, Any],
    machine: Machine,
    cores: int,
    compiler: str,
    wheels: str,
) -> Target:
    # tasks that share the work of one strip may each do some of it again: not for one core
    tasks = 1 if cores == 1 else max(machine.max_tasks, 2 * cores)
    machine = replace(machine, max_tasks=tasks)
    return Target(name, summary, description, machine, cores, compiler, wheels)


def _x86(name: str, summary: str, machine: Machine) -> Target:
    description = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": name}
    return Target(name, summary, description, machine, 4, "x86_64-linux-gnu-gcc", _X86_WHEELS)


def _armv8(name: str, summary: str, cpu: str, cores: int) -> Target:
    features = ["+neon", *_NO_SVE]
    description = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "mattr": features}
    compiler = "aarch64-linux-gnu-gcc"
    return _target(name, summary, description, NEON_V8.machine(), cores, compiler, _AARCH64_WHEELS)


def _armv7(name: str, summary: str, cpu: str, cores: int) -> Target:
    description = {
        "kind": "llvm",
        "mtriple": "armv7l-linux-gnueabihf",
        "mcpu": cpu,
        "mfloat-abi": "hard",
        "mattr": ["+neon", "+vfp4"],
    }
    return _target(
        name, summary, description, NEON_V7.machine(), cores, "arm-linux-gnueabihf-gcc", ""
    )


def _elsewhere(name: str, summary: str, triple: str, cpu: str, compiler: str) -> Target:
    description = {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "mattr": ["+neon"]}
    return _target(name, summary, description, NEON_V8.machine(), 8, compiler, "")


_PRESETS = (
    Target("native", "the CPU that this runs on", None, None),
    _x86("x86-64-v3", "any x86 with AVX2 and FMA (since about 2013)", AVX2.machine()),
    _x86("x86-64-v4", "any x86 with AVX-512 (servers since 2017)", AVX512.machine()),
    _armv7("raspberry-pi-2", "Cortex-A7, 32 bits (also a Pi 3 or 4 with 32 bits)", "cortex-a7", 4),
    _armv8("raspberry-pi-3", "Cortex-A53, 64 bits (also the Zero 2 W)", "cortex-a53", 4),
    _armv8("raspberry-pi-4", "Cortex-A72, 64 bits (also the 400)", "cortex-a72", 4),
    _armv8("raspberry-pi-5", "Cortex-A76, 64 bits (also the 500)", "cortex-a76", 4),
    _armv8("jetson-orin", "the CPU of a Jetson Orin: Cortex-A78AE", "cortex-a78ae", 8),
    _armv8("graviton2", "AWS m6g and the like: Neoverse N1", "neoverse-n1", 8),
    _armv8("graviton3", "AWS m7g and the like: Neoverse V1 (SVE is left out)", "neoverse-v1", 8),
    _elsewhere(
        "android-arm64",
        "any 64-bit Android since 7.0; bundle c alone",
        "aarch64-linux-android24",
        "generic",
        "aarch64-linux-android24-clang",
    ),
    _elsewhere(
        "apple-m1",
        "macOS on Apple silicon; bundle c alone, linked on the Mac",
        "arm64-apple-macosx11.0.0",
        "apple-m1",
        "clang",
    ),
    _armv8("aarch64", "any 64-bit ARM with Linux", "generic", 4),
    _armv7("armv7", "any 32-bit ARM with NEON and VFPv4, Linux", "generic", 4),
)
