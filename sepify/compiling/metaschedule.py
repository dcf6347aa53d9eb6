"""The parts of TVM's MetaSchedule that we use, in one place. Importing this loads tvm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tvm

_FAILED = 1e9  # seconds: what MetaSchedule writes down for a candidate that did not run
_FEW = 64  # trials
_POPULATION = 128  # the default of 512 searches for 40 s before each batch of measurements


def stub_foreign_intrinsics() -> Callable[[], None]:
    """Keep `import tvm.s_tir.tensor_intrin` from parsing every GPU's intrinsics, which takes 40 s.

    Builder workers import it too: what is returned does the same in them. It is a local function,
    so that it is sent by value; by name, every worker would import torch to find it.
    """

    def stub() -> None:
        import sys
        import types

        for name in ("cuda", "rocm", "hexagon", "riscv_cpu", "arm_cpu"):
            module = f"tvm.s_tir.tensor_intrin.{name}"
            sys.modules.setdefault(module, types.ModuleType(module))

    stub()
    return stub


class Stop(Exception):
    """Raised from a measurement callback: no more candidates, keep the records."""


class Database:
    """Tuning records in two JSON files of a folder, and the processes that make more, which are
    started for the first operator that is measured; `close` ends them."""

    def __init__(self, folder: Path) -> None:
        self._initializer = stub_foreign_intrinsics()
        from tvm.s_tir import meta_schedule

        self._ms = meta_schedule
        self._database = meta_schedule.database.JSONDatabase(work_dir=str(folder))
        self._folder = folder
        self._workers: tuple[Any, Any] | None = None

    def close(self) -> None:
        """End the processes that build and run candidates."""
        if self._workers is not None:
            builder, runner = self._workers
            builder.close()
            runner.pool.shutdown()

    def measured(self, function: Any) -> tuple[int, int]:
        """(all, valid) records of a workload."""
        module = self._module(function)
        if not self._database.has_workload(module):
            return 0, 0
        workload = self._database.commit_workload(module)
        records = self._database.get_all_tuning_records()
        seconds = [
            [float(s) for s in record.run_secs or ()]
            for record in records
            if record.workload.same_as(workload)
        ]
        return len(seconds), sum(bool(run) and max(run) < _FAILED for run in seconds)

    def best(self, function: Any, target: Any, name: str) -> Any | None:
        """The PrimFunc under its best schedule, or None."""
        schedule = self._database.query_schedule(self._module(function), target, name)
        if schedule is None:
            return None
        best = schedule.mod["main"].without_attr("global_symbol")
        return best.with_attr("tirx.is_scheduled", True)

    def tune(
        self,
        function: Any,
        target: Any,
        trials: int,
        report: Callable[[int, list[str]], None],
    ) -> None:
        """Measure up to `trials` candidates. `report(measured, errors)` after each batch may raise
        Stop."""
        ms = self._ms
        builder, runner = self._workers = self._workers or self._start_workers()
        callbacks = [*ms.measure_callback.MeasureCallback.create("default"), _reporter(report)]
        # a handful of trials is sampled at random: evolving them would cost more than it finds
        few = trials <= _FEW
        strategy = (
            ms.search_strategy.ReplayTrace()
            if few
            else ms.search_strategy.EvolutionarySearch(
                population_size=_POPULATION, genetic_num_iters=2
            )
        )
        context = ms.TuneContext(
            self._module(function),
            target=target,
            space_generator="post-order-apply",
            search_strategy=strategy,
            logger=logging.getLogger(__name__),  # ours: MetaSchedule's own writes tables to stdout
            rand_state=1,
        ).clone()
        try:
            ms.tune_tasks(
                tasks=[context],
                task_weights=[1.0],
                work_dir=str(self._folder),
                max_trials_global=trials,
                num_trials_per_iter=min(trials, 16),
                builder=builder,
                runner=runner,
                database=self._database,
                cost_model="random" if few else "xgb",
                measure_callbacks=callbacks,
            )
        except Exception as error:
            # the exception has crossed C++ and is no longer a Stop
            if Stop.__name__ not in f"{type(error).__name__}: {error}":
                raise

    def _start_workers(self) -> tuple[Any, Any]:
        from sepify.compiling.metaschedule_builder import SteadyBuilder

        runner = self._ms.runner
        config = runner.EvaluatorConfig(
            number=1, repeat=1, min_repeat_ms=40, enable_cpu_cache_flush=False
        )
        return SteadyBuilder(self._initializer), runner.LocalRunner(20, config)

    def _module(self, function: Any) -> Any:
        return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def _reporter(report: Callable[[int, list[str]], None]) -> Any:
    from tvm.ir.utils import derived_object
    from tvm.s_tir.meta_schedule.measure_callback import PyMeasureCallback

    @derived_object
    class Reporter(PyMeasureCallback):  # type: ignore[misc]
        """Called once for each batch."""

        def apply(self, scheduler: Any, task: int, candidates: Any, builds: Any, runs: Any) -> None:
            errors = [str(r.error_msg) for r in (*builds, *runs) if r.error_msg is not None]
            report(len(runs), errors)

    return Reporter()
