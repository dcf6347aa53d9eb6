"""Where a task stands, and its private copy of a strip of the input, zeros where the window leaves
the map: after that, no kernel has to ask where it is."""

from __future__ import annotations

from collections.abc import Callable

from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv
from sepify.compiling.kernels.source import Source
from sepify.compiling.kernels.tiles import Tasks


def locate(source: Source, tasks: Tasks, height: int, row: str = "row0") -> None:
    """`task` -> image, first row of the strip (under the name `row`), part of the outputs."""
    source.line(f"image = T.meta_var(task // {tasks.count})")
    source.line(f"split = T.meta_var(task % {tasks.splits})")
    start = f"(task // {tasks.splits}) % {tasks.strips} * {tasks.rows}"
    if tasks.strips * tasks.rows > height:
        start = f"T.min({start}, {height - tasks.rows})"
    source.line(f"{row} = T.meta_var({start})")


def copy_strip(
    source: Source,
    conv: Conv,
    rows: int,
    planes: tuple[str, int],
    lanes: int,
    target: Callable[[str, str], str],
    value: Callable[[str, str], str],
) -> None:
    """Fill the columns and rows that `rows` output rows from `row0` on need, for all `planes`
    (a loop variable and its extent).

    `target(row, column)` is the place in the strip, `value(y, x)` the input there; both use the
    lane `q`, unless `lanes` is 0: the input is not blocked.
    """
    window = conv.window
    top, left = window.padding[0], window.padding[1]
    height, width = window.span(0, rows), window.span(1, conv.out_width)
    inside = min(width, conv.width + left) - left  # columns of the input that are needed
    with source.loop(*planes), source.loop("r", height):
        y = f"row0*{window.stride[0]} + r - {top}"
        if top or window.padding[2]:
            with source.block(f"if {y} >= 0 and {y} < {conv.height}"):
                _columns(source, left, inside, width, y, lanes, target, value)
            with source.block("else"):
                _fill(source, 0, width, lanes, target)
        else:
            _columns(source, left, inside, width, y, lanes, target, value)


def fetch_rows(
    source: Source, conv: Conv, rows: int, machine: Machine, terms: int = 1, *, blocked: bool = True
) -> Callable[[str, int], None] | None:
    """A Contraction's `fetch`: asks for the input rows that the next strip, of as many `rows`, is
    the first to read. None where the map is one strip, or nothing is asked for. The contraction's
    outermost loop is `cb`, over the input's planes, `terms` times.

    A strip is read at once, between products that leave memory idle: rows of a map that is larger
    than the second level cache would be waited for.
    """
    window = conv.window
    fresh = rows * window.stride[0]
    if fresh >= conv.height or not machine.prefetches:
        return None
    unshared = window.span(0, 1) - window.stride[0]
    start = f"(row0 + {rows})*{window.stride[0]} + {unshared - window.padding[0]}"
    planes, each, lanes = conv.channels, machine.line_elements, [""]  # `each`: columns in a line
    if blocked:
        planes, each = machine.blocks(conv.channels), machine.line_vectors
        lanes = [f", {lane}" for lane in machine.line_starts]
    lines = -(-fresh * conv.width // each)

    def fetch(number: str, count: int) -> None:
        turns = count * terms
        share = -(-lines // turns)
        first = f"({number}*{terms} + cb // {planes})*{lines}//{turns}"
        row = f"T.min({start}, {conv.height - fresh})"
        with source.loop("part", share):
            column = f"({first} + part)*{each}"
            for lane in lanes:
                source.fetch(f"X[image, cb % {planes}, {row}, {column}{lane}]", level=2)

    return fetch


def _columns(
    source: Source,
    left: int,
    inside: int,
    width: int,
    y: str,
    lanes: int,
    target: Callable[[str, str], str],
    value: Callable[[str, str], str],
) -> None:
    _fill(source, 0, left, lanes, target)
    with source.loop("c", inside):
        _store(source, lanes, target("r", f"c + {left}"), value(y, "c"))
    _fill(source, left + inside, width - left - inside, lanes, target)


def _fill(
    source: Source, start: int, count: int, lanes: int, target: Callable[[str, str], str]
) -> None:
    if count > 0:
        with source.loop("c", count):
            _store(source, lanes, target("r", f"c + {start}"), source.element.literal(0))


def _store(source: Source, lanes: int, target: str, value: str) -> None:
    if lanes:
        source.vector(lanes, target, value)
    else:
        source.line(f"{target} = {value}")
