"""A lowered network as plain data: tensors at fixed places, and the calls that go through them."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.compiling.kernels.elements import ELEMENTS

Shape = tuple[int, ...]

ALIGNMENT = 64  # bytes: what TVM's vector loads count on


@dataclass(frozen=True)
class Tensor:
    """A tensor at byte `offset` of the weights, or of the arena."""

    in_weights: bool
    offset: int
    shape: Shape
    dtype: str

    @property
    def bytes(self) -> int:
        """Its size."""
        count = ELEMENTS[self.dtype].bytes
        for extent in self.shape:
            count *= extent
        return count


@dataclass(frozen=True)
class Call:
    """A kernel by name, and the numbers of its tensors, the output last."""

    kernel: str
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What one inference does. Sizes in bytes.

    `arena` holds every tensor that is no weight, `workspace` one thread's scratch memory (an upper
    bound: kernels may need less), `peak` the most that tensors in use at one time take together.
    """

    tensors: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: bytes
    arena: int
    workspace: int

    @property
    def peak(self) -> int:
        """The most bytes of the arena that hold something still needed, at any call."""
        owner: dict[int, list[int]] = {}  # offset -> [bytes, first call, last call] of who is there
        lives: list[list[int]] = []

        def use(tensor: Tensor, index: int, defines: bool) -> None:
            if tensor.in_weights:
                return
            if defines or tensor.offset not in owner:
                owner[tensor.offset] = [tensor.bytes, index, index]
                lives.append(owner[tensor.offset])
            owner[tensor.offset][2] = index  # a reshape of it is the same memory

        for number in self.inputs:
            use(self.tensors[number], -1, True)
        for index, call in enumerate(self.calls):
            for number in call.arguments[:-1]:
                use(self.tensors[number], index, False)
            use(self.tensors[call.arguments[-1]], index, True)
        for number in self.outputs:
            use(self.tensors[number], len(self.calls), False)
        return max(
            sum(size for size, first, last in lives if first <= index <= last)
            for index in range(-1, len(self.calls) + 1)
        )


def is_known(dtype: str) -> bool:
    """Whether tensors of `dtype` can be part of a program."""
    return dtype in ELEMENTS


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT
