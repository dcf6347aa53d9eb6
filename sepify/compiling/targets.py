"""The CPUs that we compile for, by name."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from typing import Any

from sepify.compiling.kernels.shapes import Machine
from sepify.errors import UsageError

_AVX512 = Machine(lanes=16, registers=32)
_AVX2 = Machine(lanes=8, registers=16)
_SSE = Machine(lanes=4, registers=16)


@dataclass(frozen=True)
class Target:
    """A preset. `description` is TVM's target as a dict; None for the CPU that we run on."""

    name: str
    summary: str
    description: dict[str, Any] | None
    machine: Machine | None

    @property
    def triple(self) -> str:
        """What the code runs on, as LLVM writes it; "" for the CPU that we run on."""
        return str((self.description or {}).get("mtriple", ""))


def targets() -> tuple[Target, ...]:
    """All presets."""
    return _PRESETS


def find_target(name: str) -> Target:
    """The preset of that name, `native` filled in with what LLVM says about this CPU (loads tvm).

    Raises UsageError offering the nearest names.
    """
    known = {target.name: target for target in _PRESETS}
    if name not in known:
        near = difflib.get_close_matches(name, known, cutoff=0.4) or list(known)
        raise UsageError(f"unknown target {name!r}; did you mean {' or '.join(near)}?")
    target = known[name]
    return target if target.description is not None else _detect(target)


def _detect(target: Target) -> Target:
    from sepify.compiling import tvm_api

    present = tvm_api.host_features()
    description: dict[str, Any] = {"kind": "llvm", "mcpu": tvm_api.host_cpu()}
    # a hypervisor may hide what the model of CPU would have
    hidden = tvm_api.code_features(tvm_api.make_target(description)) - present
    if hidden:
        description["mattr"] = [f"-{feature}" for feature in sorted(hidden)]
    machine = _SSE
    if {"avx512f", "avx512vl"} <= present:
        machine = _AVX512
    elif {"avx2", "fma"} <= present:
        machine = _AVX2
    machine = replace(machine, max_tasks=2 * (os.cpu_count() or 1))
    return replace(target, description=description, machine=machine)


def _x86(level: str) -> dict[str, Any]:
    return {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": level}


_PRESETS = (
    Target("native", "the CPU that this runs on", None, None),
    Target("x86-64-v3", "any x86 with AVX2 and FMA (since about 2013)", _x86("x86-64-v3"), _AVX2),
    Target("x86-64-v4", "any x86 with AVX-512 (servers since 2017)", _x86("x86-64-v4"), _AVX512),
)
