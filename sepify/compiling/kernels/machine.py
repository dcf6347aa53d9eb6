"""What the kernels need to know about a CPU: its vectors, its caches, its threads."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.compiling.kernels.elements import FLOAT32, Element
from sepify.compiling.kernels.source import LOCAL_BYTES, Buffer, Shape

_LEAST_FETCHING_BYTES = 32  # of a vector, for `prefetches`


@dataclass(frozen=True)
class Dot:
    """An instruction that adds to each lane of `sums` the products of the `group` neighbouring
    lanes of `left` and `right` that lie over it.

    `intrinsic` is LLVM's name of it, `features` are what a CPU must have to run it.
    """

    intrinsic: str
    features: tuple[str, ...]
    left: Element
    right: Element
    sums: Element
    group: int = 4

    def call(self, lanes: int, sums: str, left: str, right: str) -> str:
        """The new value of so many `lanes` of sums, as TVMScript; the texts are whole vectors."""
        result = f"'{self.sums.name}x{lanes}', '{self.intrinsic}'"
        return f"T.call_llvm_pure_intrin({result}, {sums}, {left}, {right})"


@dataclass(frozen=True)
class Machine:
    """A CPU, as far as kernels are made for it. `INSTRUCTION_SETS` has the vectors of those that
    are known by name."""

    lanes: int  # elements per vector register
    registers: int  # vector registers
    # of a task's private strip: less than half of a small L2, enough for 7 rows of 512 x 14
    scratch_bytes: int = 200 * 1024
    task_macs: int = 1 << 17  # less work than this is not worth waking another thread for
    max_tasks: int = 8  # twice the threads that are expected
    # whether an FMA that reads its pixel from memory is as fast as one that has it in a register
    cheap_broadcasts: bool = False
    element: Element = FLOAT32  # of maps, weights and sums
    line_bytes: int = 64  # of a cache line
    dot: Dot | None = None

    @property
    def vector_bytes(self) -> int:
        """The size of a vector."""
        return self.lanes * self.element.bytes

    @property
    def prefetches(self) -> bool:
        """Whether kernels prefetch what they read next. Not with vectors of 16 bytes: nothing was
        measured there, and a dense network would execute an eighth more instructions."""
        return self.vector_bytes >= _LEAST_FETCHING_BYTES

    @property
    def line_elements(self) -> int:
        """Elements in a cache line."""
        return self.line_bytes // self.element.bytes

    @property
    def line_vectors(self) -> int:
        """Whole vectors in a cache line; 1 where a vector is longer than a line."""
        return max(1, self.line_elements // self.lanes)

    @property
    def line_starts(self) -> range:
        """The lanes of a vector at which cache lines begin: the first one, unless a vector is
        longer than a line."""
        return range(0, self.lanes, self.line_elements)

    @property
    def most_local(self) -> int:
        """Vectors that a buffer meant for registers may hold."""
        return max(1, (LOCAL_BYTES - 1) // self.vector_bytes)

    def blocks(self, channels: int) -> int:
        """Vectors that hold `channels`."""
        return -(-channels // self.lanes)

    def tail(self, channels: int) -> int:
        """Lanes in use of the last vector of `channels`, 0 where it is full: steps that a reduction
        over them has left for its last turn."""
        return channels % self.lanes

    def buffer(self, name: str, shape: Shape) -> Buffer:
        """A parameter of a kernel, of the machine's elements."""
        return Buffer(name, shape, self.element)
