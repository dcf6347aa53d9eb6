"""The instruction sets that kernels are made for, one row each.

A row has the size and the number of the vector registers, what a CPU must have to run it, and how
fast register tiles were measured to be. Adding one is adding a row here: targets, default knobs and
the search read everything from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sepify.compiling.kernels.elements import FLOAT32, INT8, INT32, UINT8, Element
from sepify.compiling.kernels.machine import Dot, Machine

Tiles = Mapping[tuple[int, int], float]

# Throughput of a register tile (pixels, vectors) relative to the best, measured with AVX2: with
# ten accumulators and more LLVM may spill, below eight an FMA waits for the one before it.
SIXTEEN_REGISTERS: Tiles = {
    (1, 2): 0.25,
    (1, 4): 0.5,
    (1, 8): 0.65,
    (2, 2): 0.5,
    (2, 3): 0.65,
    (2, 4): 0.96,
    (3, 2): 0.72,
    (3, 3): 0.75,
    (4, 1): 0.48,
    (4, 2): 1.0,
    (4, 3): 0.85,
    (7, 1): 0.76,
    (8, 1): 0.8,
}
# The same with AVX-512 on an AMD EPYC (two vectors and more: four steps of the reduction written
# out). LLVM folds the broadcast of a pixel into the FMA where one vector reads it, and spills where
# 16 steps of two vectors are scheduled at once.
_AMD: Tiles = {
    (8, 1): 0.9,
    (9, 1): 0.93,
    (10, 1): 0.97,
    (11, 1): 0.98,
    (12, 1): 1.0,
    (13, 1): 1.0,
    (14, 1): 0.95,
    (7, 2): 0.99,
    (14, 2): 0.97,
    (10, 2): 0.94,
    (12, 2): 0.91,
    (6, 4): 0.93,
    (5, 4): 0.93,
    (7, 4): 0.85,
}
# On an Intel Xeon, whose two FMAs a cycle of 512 bits leave no load to spare: a pixel that is read
# for one vector alone costs a fifth.
_INTEL: Tiles = {
    (8, 1): 0.86,
    (9, 1): 0.86,
    (10, 1): 0.87,
    (11, 1): 0.84,
    (12, 1): 0.81,
    (13, 1): 0.76,
    (14, 1): 0.71,
    (4, 2): 0.83,
    (6, 2): 0.95,
    (7, 2): 0.98,
    (8, 2): 0.99,
    (10, 2): 0.99,
    (12, 2): 0.99,
    (13, 2): 0.99,
    (14, 2): 1.0,
    (4, 3): 0.86,
    (5, 3): 0.88,
    (6, 3): 0.93,
    (7, 3): 0.95,
    (8, 3): 0.87,
    (9, 3): 0.92,
    (3, 4): 0.84,
    (4, 4): 0.93,
    (5, 4): 0.95,
    (6, 4): 0.97,
    (7, 4): 0.85,
    (2, 8): 0.85,
    (3, 8): 0.6,
}

# AArch64's sdot; SSE and AVX have no such instruction, AVX-512 has it as an extension (VNNI)
_SDOT = Dot("llvm.aarch64.neon.sdot.v4i32.v16i8", ("dotprod",), INT8, INT8, INT32)
_VPDPBUSD = Dot("llvm.x86.avx512.vpdpbusd.512", ("avx512vnni",), UINT8, INT8, INT32)


@dataclass(frozen=True)
class InstructionSet:
    """The vectors of a family of CPUs.

    A CPU is of it where its architecture (as `Target.architecture`; "" is any) is the same, LLVM's
    name of it begins with `cpus`, and it has all `features`, in LLVM's words; a fused multiply-add
    (`fma`) is such a feature where an architecture does not always have it.
    """

    name: str
    architecture: str
    vector_bytes: int
    registers: int
    features: frozenset[str] = frozenset()
    cpus: str = ""
    cheap_broadcasts: bool = False  # see `Machine`
    dots: tuple[Dot, ...] = ()  # that a CPU may have, the best first
    tiles: Tiles = field(default_factory=dict, hash=False)  # see `SIXTEEN_REGISTERS`

    def has(self, architecture: str, cpu: str, features: Collection[str]) -> bool:
        """Whether a CPU is of it."""
        same = self.architecture in ("", architecture) and cpu.startswith(self.cpus)
        return same and self.features <= set(features)

    def machine(self, features: Collection[str] = (), element: Element = FLOAT32) -> Machine:
        """A machine with these vectors, for kernels on numbers of type `element`; `features` are
        what its CPU has beyond the least."""
        dots = (dot for dot in self.dots if set(dot.features) <= set(features))
        return Machine(
            self.vector_bytes // element.bytes,
            self.registers,
            cheap_broadcasts=self.cheap_broadcasts,
            element=element,
            dot=next(dots, None),
        )


AVX512_AMD = InstructionSet(
    "avx512 of AMD",
    "x86_64",
    64,
    32,
    frozenset({"avx512f", "avx512vl"}),
    cpus="znver",
    cheap_broadcasts=True,
    dots=(_VPDPBUSD,),
    tiles=_AMD,
)
# tiles that are good on Intel's, and on AMD's nearly so
AVX512 = InstructionSet(
    "avx512",
    "x86_64",
    64,
    32,
    frozenset({"avx512f", "avx512vl"}),
    dots=(_VPDPBUSD,),
    tiles=_INTEL,
)
AVX2 = InstructionSet("avx2", "x86_64", 32, 16, frozenset({"avx2", "fma"}), tiles=SIXTEEN_REGISTERS)
NEON_V8 = InstructionSet("neon", "aarch64", 16, 32, dots=(_SDOT,))  # tiles were not measured
NEON_V7 = InstructionSet("neon of armv7", "armv7", 16, 16, tiles=SIXTEEN_REGISTERS)
# SSE, and the vectors that LLVM makes of whatever a CPU has
BASELINE = InstructionSet("128 bits", "", 16, 16, tiles=SIXTEEN_REGISTERS)

# the first that a CPU is of is the one that is used: larger vectors before smaller ones, a family
# of CPUs before all others
INSTRUCTION_SETS = (AVX512_AMD, AVX512, AVX2, NEON_V8, NEON_V7, BASELINE)


def instruction_set(architecture: str, cpu: str, features: Collection[str]) -> InstructionSet:
    """The best instruction set that a CPU has."""
    return next(one for one in INSTRUCTION_SETS if one.has(architecture, cpu, features))


def measured_tiles(machine: Machine) -> Tiles:
    """How fast register tiles are on machines with such vectors; empty where nobody measured."""
    vectors = (machine.vector_bytes, machine.registers, machine.cheap_broadcasts)
    for one in INSTRUCTION_SETS:
        if vectors == (one.vector_bytes, one.registers, one.cheap_broadcasts):
            return one.tiles
    return {}
