"""LASX, the vectors of 256 bits of LoongArch."""

from sepify.compiling.kernels.instruction_sets import InstructionSet

LASX = InstructionSet(
    "lasx",
    "loongarch64",
    vector_bytes=32,
    registers=32,
    features=frozenset({"lasx"}),
    tiles={(6, 4): 1.0, (4, 4): 0.9},  # invented: measure yours
)
