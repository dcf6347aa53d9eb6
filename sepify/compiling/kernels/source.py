"""TVMScript as text: an indenting writer, and the kernel that it becomes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sepify.compiling.kernels.elements import Element

LOCAL_BYTES = 1024  # a buffer as large as this, or larger, does not stay on the stack
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Buffer:
    """A parameter of a kernel."""

    name: str
    shape: Shape
    element: Element

    def __str__(self) -> str:
        return f"{self.name}: T.Buffer({self.shape!r}, '{self.element.name}')"

    @property
    def region(self) -> str:
        """The whole buffer, as a TVMScript region."""
        return f"{self.name}[{', '.join(f'0:{extent}' for extent in self.shape)}]"


@dataclass(frozen=True)
class Kernel:
    """One PrimFunc: its inputs, its output `Y`, and its body as TVMScript lines."""

    kind: str
    inputs: tuple[Buffer, ...]
    output: Buffer
    body: tuple[str, ...]

    @property
    def name(self) -> str:
        """Unique among kernels that differ."""
        text = "\n".join([*map(str, self.inputs), str(self.output), *self.body])
        return f"sepify_{self.kind}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def script(self) -> str:
        """The TVMScript function. Its body stands in one root block, with all that it reads and
        writes declared: Relax passes insist on one."""
        buffers = (*self.inputs, self.output)
        reads = ", ".join(buffer.region for buffer in self.inputs)
        lines = [
            "@T.prim_func(s_tir=True)",
            f"def {self.name}({', '.join(map(str, buffers))}):",
            # 8 is opaque: nothing may be fused into it
            "  T.func_attr({'tirx.noalias': True, 'op_pattern': 8, 'sepify.kernel': True})",
            "  with T.sblock('root'):",
            f"    T.reads({reads})",
            f"    T.writes({self.output.region})",
            *("    " + line for line in self.body),
        ]
        return "\n".join(lines) + "\n"


class Source:
    """Lines of TVMScript with indentation by nested `with` blocks, on numbers of one type."""

    def __init__(self, element: Element) -> None:
        self.element = element
        self.lines: list[str] = []
        self._depth = 0

    def line(self, text: str) -> None:
        """Append one statement."""
        self.lines.append("  " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """`head:` with what follows indented under it."""
        self.line(head + ":")
        self._depth += 1
        yield
        self._depth -= 1

    @contextmanager
    def optional(self, head: str) -> Iterator[None]:
        """As `block`; without a head, what follows stands where it is."""
        if not head:
            yield
            return
        with self.block(head):
            yield

    @contextmanager
    def loop(self, variable: str, extent: int, kind: str = "") -> Iterator[None]:
        """A loop; `kind` is "", "parallel", "unroll" or "vectorized"."""
        function = f"T.{kind}" if kind else "range"
        with self.block(f"for {variable} in {function}({extent})"):
            yield

    def local(self, name: str, shape: Sequence[int]) -> None:
        """A buffer meant for registers: every index into it must become a constant. TVM puts it on
        the stack, where LLVM looks for registers, only in the default scope and below
        LOCAL_BYTES."""
        self.scratch(name, shape)

    def scratch(self, name: str, shape: Sequence[int]) -> None:
        """A buffer in memory, private to the task that allocates it."""
        self.line(f"{name} = T.alloc_buffer({tuple(shape)!r}, '{self.element.name}')")

    def vector(self, lanes: int, target: str, value: str) -> None:
        """`target = value` over one vector; both texts use the lane `q`."""
        self.line(f"for q in T.vectorized({lanes}): {target} = {value}")

    def fetch(self, place: str, level: int = 1) -> None:
        """Ask for the cache line of `place`, an element that is read soon, to be in the cache of
        that level by then. A place outside its buffer does no harm."""
        hints = f"T.int32(0), T.int32({4 - level}), T.int32(1)"  # read, locality, data
        call = f"T.call_llvm_intrin('void', 'llvm.prefetch', T.address_of({place}), {hints})"
        self.line(f"T.evaluate({call})")

    def kernel(self, kind: str, inputs: Sequence[Buffer], output: Shape) -> Kernel:
        """What has been written, as a kernel that writes `Y`."""
        return Kernel(
            kind, tuple(inputs), Buffer("Y", tuple(output), self.element), tuple(self.lines)
        )
