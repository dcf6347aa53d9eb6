"""An imported network rewritten step by step: own kernels where there are any, with the knobs that
the database has for each, everything else as it was, in the layout that each step needs. If there
is a budget, more knobs are measured first."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepify.compiling import tvm_api, tvm_runtime
from sepify.compiling.budget import Budget
from sepify.compiling.device.bench import open_board_bench
from sepify.compiling.device.boards import Farm
from sepify.compiling.kernel_tuning.bench import Bench, open_bench
from sepify.compiling.kernel_tuning.records import Records
from sepify.compiling.kernel_tuning.tune import KernelTuning, Progress, tune_kernels
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.lower_convs import find_kernels
from sepify.compiling.lower_others import lower_other
from sepify.compiling.steps import Network
from sepify.compiling.targets import Target
from sepify.compiling.tuning import worth_tuning
from sepify.compiling.values import Choose, Values
from sepify.errors import DatabaseWarning
from sepify.storage import damaged_lines


@dataclass(frozen=True)
class Lowered:
    """The module, fused, and how its kernels came by their knobs.

    `tuned` calls of kernels have measured knobs; `reused` workloads had them before.
    """

    module: Any
    tuned: int
    reused: int
    tuning: KernelTuning


def lower_with_records(
    imported: Any,
    target: Target,
    budget: Budget | None,
    folder: Path,
    progress: Progress,
    farm: Farm | None = None,
) -> Lowered:
    """Lower and fuse `imported`; with a `budget` that somebody asked for, tune its kernels before,
    which leaves MetaSchedule's operators their part of it.

    Warns (DatabaseWarning) of records in `folder` that are of no use. Raises FileError if the
    records cannot be read or written, CompileError if tuning cannot be started.
    """
    machine, description = target.machine, target.description
    assert machine is not None  # find_target has filled them in
    assert description is not None
    records = Records(folder, description, tvm_runtime.VERSIONS)
    _warn(records)
    workloads: Counter[Workload] = Counter()

    def choose(workload: Workload) -> Any:
        workloads[workload] += 1
        return records.best(workload)

    tvm_target = tvm_api.make_target(description)
    module = tvm_api.fuse(lower(imported, machine, choose), tvm_target)
    reused = sum(records.best(workload) is not None for workload in workloads)
    tuning = KernelTuning()
    if budget is not None and not budget.is_none and workloads:
        all_ = len(workloads) + len(worth_tuning(module))
        with _bench(target, farm) as bench:
            mine = budget.part(len(workloads), all_)
            tuning = tune_kernels(workloads, machine, mine, records, bench, progress)
        module = tvm_api.fuse(lower(imported, machine, records.best), tvm_target)
    tuned = sum(uses for workload, uses in workloads.items() if records.best(workload) is not None)
    return Lowered(module, tuned, reused, tuning)


def lower(
    module: tvm_api.Module, machine: Machine, choose: Choose = lambda _workload: None
) -> tvm_api.Module:
    """A new Relax module that computes the same as `module`; `choose` is asked for the knobs of
    each kernel that has any, once for each call of it."""
    network = Network(module, machine.element)
    kernels, covered = find_kernels(network, machine)
    builder = tvm_api.Builder(network.inputs)
    values = Values(builder, machine, choose)
    for variable in network.inputs:
        values.set_plain(variable, variable)

    def body() -> Any:
        for step in network.steps:
            if step.variable in kernels:
                kernels[step.variable](values)
            elif step.variable not in covered and not lower_other(network, values, step):
                values.set_plain(step.variable, builder.emit(values.copy(step.value)))
        return values.copy(network.result)

    return tvm_api.remove_dead_code(builder.write(body))


def _bench(target: Target, farm: Farm | None) -> AbstractContextManager[Bench]:
    """Where candidates are timed: here, or on boards."""
    if farm is not None:
        return open_board_bench(farm, target)
    assert target.description is not None
    assert target.machine is not None
    return open_bench(target.description, target.machine)


def _warn(records: Records) -> None:
    if records.damaged:
        warnings.warn(damaged_lines(records.path, records.damaged), DatabaseWarning, stacklevel=2)
    if records.of_other_versions:
        warnings.warn(
            f"{records.path}: {records.of_other_versions} records of other versions of TVM or of "
            "sepify's kernels are ignored; tune again to replace them",
            DatabaseWarning,
            stacklevel=2,
        )
