"""Fully connected layers: few rows, so the weights are what costs; each is read once."""

from __future__ import annotations

from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.shapes import Epilogue, Machine
from sepify.compiling.kernels.source import Buffer, Kernel, Source
from sepify.compiling.kernels.tiles import Tiling, even_runs, greedy_runs, task_count


def linear_kernel(
    batch: int, features: int, outputs: int, clip: tuple[float, float] | None, machine: Machine
) -> Kernel:
    """X `(N, I)`, W `(O/v, I, v)`, B `(O/v, v)` -> Y `(N, O/v, v)`: `O` padded to whole vectors."""
    v = machine.lanes
    blocks = machine.blocks(outputs)
    wanted = min(task_count(batch * features * outputs, machine), blocks)
    chunks = max(n for n in range(1, wanted + 1) if blocks % n == 0)
    per_task = blocks // chunks
    rows = min(batch, 4)
    room = 8 if rows == 1 else max(1, (machine.registers - 5) // rows)
    tiling = Tiling(even_runs(batch, rows), greedy_runs(per_task, min(room, per_task)))
    step = next(n for n in (8, 4, 2, 1) if features % n == 0)

    source = Source()
    with source.loop("task", chunks, "parallel"):
        work = Contraction(
            [("ko", features // step)],
            ("ki", step),
            f"ko*{step} + ki",
            lambda _row, column: f"X[{column}, ko*{step} + ki]",
            lambda vector, _row, column: f"{column}, {vector}, q",
            Epilogue(clip=clip),
        )
        contract(source, v, tiling, 1, f"task*{per_task}", work)
    inputs = [Buffer("X", (batch, features)), Buffer("W", (blocks, features, v))]
    inputs.append(Buffer("B", (blocks, v)))
    return source.kernel("linear", inputs, (batch, blocks, v))
