"""Branches, loops and raised exceptions: followed as the example input does."""

from __future__ import annotations

from typing import Any

from sepify.capture.torchscript.machine import Handler, Machine
from sepify.capture.torchscript.source import source_line
from sepify.capture.torchscript.values import Dependence, Traced, concrete
from sepify.errors import CaptureError

MOST_ITERATIONS = 2_000


def _if(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    (condition,) = values
    then, otherwise = node.blocks()
    taken = bool(concrete(condition))
    block, other = (then, otherwise) if taken else (otherwise, then)
    follows_data = isinstance(condition, Traced) and condition.content is Dependence.DATA
    # a branch that only raises is a check of the input, not another way to compute
    if follows_data or not _raises(other):
        machine.recorder.assume(condition, node)
    return machine.run_block(block, [])


def _loop(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    limit, proceed, *carried = values
    limit = machine.recorder.assume(limit, node)
    (body,) = node.blocks()
    count = 0
    while count < limit and machine.recorder.assume(proceed, node):
        if count == MOST_ITERATIONS:
            raise CaptureError(
                f"a loop runs more than {MOST_ITERATIONS} times ({source_line(node)}), which "
                "cannot be unrolled into a graph; replace it by a tensor operation"
            )
        proceed, *carried = machine.run_block(body, [count, *carried])
        count += 1
    return tuple(carried)


def _raise(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    message = concrete(values[0])
    raise CaptureError(
        f"the model refuses the example input ({source_line(node)})"
        + (f": {message}" if message else "")
    )


def _raises(block: Any) -> bool:
    return any(node.kind() == "prim::RaiseException" for node in block.nodes())


CONTROL: dict[str, Handler] = {
    "prim::If": _if,
    "prim::Loop": _loop,
    "prim::RaiseException": _raise,
}
