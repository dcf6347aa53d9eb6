"""The kernel of docs/how-to/add-a-kernel.md, added, compiled, tuned and checked; and that the pages
show the code that is tested."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from compiling import added_instruction_set, added_kernel
from compiling.added_instruction_set import LASX
from compiling.added_kernel import SCALED
from compiling.kernel_runner import run_kernel

from sepify.compiling.kernel_tuning.sample import sample, tolerance
from sepify.compiling.kernel_tuning.search import search
from sepify.compiling.kernels import instruction_sets, table
from sepify.compiling.kernels.instruction_sets import BASELINE, instruction_set, measured_tiles
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.mark.parametrize(
    ("page", "module"),
    [("add-a-kernel", added_kernel), ("add-an-instruction-set", added_instruction_set)],
)
def test_the_page_shows_the_code(page, module):
    code = Path(module.__file__).read_text(encoding="utf-8")
    assert f"```python\n{code}```\n" in (HOW_TO / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("machine", [Machine(8, 16), Machine(16, 32, task_macs=64)], ids=str)
def test_the_added_kernel_is_right_with_any_knobs(machine):
    conv = Conv(2, 20, 7, 9, 20, Window((1, 1)), 7, 9, 20)
    workload = Workload(SCALED, conv, Epilogue(residual=True, clip=(0.0, 6.0)))
    assert workload.macs == 2 * 20 * 7 * 9
    steps = search(workload, machine)
    tried = [*next(steps), *steps.send([1.0])]
    assert len(tried) > 1
    for knobs in tried:
        arguments, expected = sample(workload, machine, knobs)
        ours = run_kernel(workload.kernel(machine, knobs), *arguments)
        error = np.abs(ours - expected).max() / np.abs(expected).max()
        assert error <= tolerance(workload, machine, knobs)


def test_a_line_in_the_table_lets_records_be_read(monkeypatch):
    workload = Workload(SCALED, Conv(1, 8, 4, 4, 8, Window((1, 1)), 4, 4, 8))
    with pytest.raises(ValueError, match="no kind of kernel: scaled"):
        table.read_workload(json.loads(workload.key))
    monkeypatch.setattr(table, "KINDS", (*table.KINDS, SCALED))
    assert table.read_workload(json.loads(workload.key)) == workload


def test_a_row_is_an_instruction_set(monkeypatch):
    cpu = ("loongarch64", "la464", {"lasx", "lsx"})
    assert instruction_set(*cpu) is BASELINE
    rows = (LASX, *instruction_sets.INSTRUCTION_SETS)
    monkeypatch.setattr(instruction_sets, "INSTRUCTION_SETS", rows)
    assert instruction_set(*cpu) is LASX
    machine = LASX.machine()
    assert (machine.lanes, machine.registers) == (8, 32)
    assert measured_tiles(machine) == LASX.tiles
    workload = Workload(table.DENSE, Conv(1, 64, 14, 14, 64, Window((1, 1)), 14, 14))
    knobs = workload.default_knobs(machine)
    assert (knobs.pixels, knobs.vectors) == (6, 4)  # as its row says
    arguments, expected = sample(workload, machine, knobs)
    ours = run_kernel(workload.kernel(machine, knobs), *arguments)
    assert np.abs(ours - expected).max() / np.abs(expected).max() <= tolerance(
        workload, machine, knobs
    )
