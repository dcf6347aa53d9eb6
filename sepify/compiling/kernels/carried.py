"""Rows of a first layer, kept in a scratch buffer Z while the window of a second one passes over
them: those that neighbouring windows share are carried on, not computed again."""

from __future__ import annotations

from collections.abc import Callable

from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv
from sepify.compiling.kernels.source import Source
from sepify.compiling.kernels.strip import locate
from sepify.compiling.kernels.tiles import Tasks

_TWICE = 0.05  # of the first layer's rows, computed by two tasks


def can_carry(second: Conv) -> bool:
    """Whether rows of `second` can be computed one after another from rows that follow each other:
    no dilation, no row left out, and none above the map that a first window does not share with the
    next."""
    window = second.window
    close = window.dilation == (1, 1) and window.kernel[0] >= window.stride[0]
    return close and window.padding[0] <= shared_rows(second)


def shared_rows(second: Conv) -> int:
    """Rows that neighbouring windows share."""
    return second.window.kernel[0] - second.window.stride[0]


def strips_for(first: Conv, second: Conv, most: int) -> int:
    """A power of two, `most` or below, of strips that compute few of the first's rows twice."""
    strips = 1
    while 2 * strips <= most and 2 * strips * shared_rows(second) <= first.out_height * _TWICE:
        strips *= 2
    return strips


def carry_rows(
    source: Source,
    first: Conv,
    second: Conv,
    tasks: Tasks,
    planes: int,
    machine: Machine,
    compute: Callable[[int, int], None],
    pass_over: Callable[[str], None],
) -> None:
    """Write all tasks. Z is `(planes, rows, first.out_width, v)`.

    `compute(count, place)` writes `count` rows of the first layer from `row0` on to the rows of Z
    from `place` on; rows that are not on the map need not be right. `pass_over(row)` writes output
    row `row` of the second layer; the first row of its window is row `r*stride` of Z.
    """
    v, stride, shared = machine.lanes, second.window.stride[0], shared_rows(second)
    rows = _rows_at_a_time(
        tasks.rows, second, machine.vector_bytes * planes * first.out_width, machine
    )
    fresh, chunks = rows * stride, tasks.rows // rows
    with source.loop("task", second.batch * tasks.count, "parallel"):
        locate(source, tasks, second.out_height, "last0")
        source.scratch("Z", (planes, shared + fresh, first.out_width, v))
        source.line(f"top = T.meta_var(last0*{stride} - {second.window.padding[0]})")
        if chunks == 1:
            source.line("row0 = T.meta_var(top)")
            compute(shared + fresh, 0)
            with source.loop("r", rows):
                pass_over("(last0 + r)")
            return
        if shared:
            with source.block(f"if top + {shared} > 0"):
                source.line("row0 = T.meta_var(top)")
                compute(shared, 0)
        with source.loop("chunk", chunks):
            source.line(f"row0 = T.meta_var(top + {shared} + chunk*{fresh})")
            compute(fresh, shared)
            with source.loop("r", rows):
                pass_over(f"(last0 + chunk*{rows} + r)")
            if shared:
                kept = (("cb", planes), ("o", shared), ("x", first.out_width))
                with source.loop(*kept[0]), source.loop(*kept[1]), source.loop(*kept[2]):
                    source.vector(v, "Z[cb, o, x, q]", f"Z[cb, o + {fresh}, x, q]")


def _rows_at_a_time(rows: int, second: Conv, row_bytes: int, machine: Machine) -> int:
    """The most of a task's `rows` whose input fits a task's scratch; a divisor."""
    fitting = [
        n
        for n in range(1, rows + 1)
        if rows % n == 0 and second.window.span(0, n) * row_bytes <= machine.scratch_bytes
    ]
    return max(fitting, default=1)
