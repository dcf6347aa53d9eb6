"""MetaSchedule's builder of candidates, with workers that serve more than one batch.

TVM's own starts new workers for each batch and each operator, and every worker imports TVM: most of
the time of a few trials. Importing this loads MetaSchedule: call `stub_foreign_intrinsics` before.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.builder.local_builder import _worker_func
from tvm.support import popen_pool
from tvm.support.popen_pool import PopenPoolExecutor, PopenWorker, StatusKind

from sepify.process.starting import python_command, python_environment

_WORKERS = 2
_SECONDS = 60  # for one candidate
_USES = 200  # candidates of one worker: TVM's leak memory


class _Worker(PopenWorker):  # type: ignore[misc]
    """TVM's worker process, but nothing is imported from the folder that it is started in."""

    _proc: Any
    _stdout: Any
    _stderr: Any

    def _start(self) -> None:
        if self._proc is not None:
            return
        from_worker, to_parent = os.pipe()
        from_parent, to_worker = os.pipe()
        self._proc = subprocess.Popen(
            python_command("tvm.exec.popen_worker", str(from_parent), str(to_parent)),
            pass_fds=(from_parent, to_parent),
            stdout=self._stdout,
            stderr=self._stderr,
            env=python_environment(),
        )
        os.close(from_parent)
        os.close(to_parent)
        self._reader = os.fdopen(from_worker, "rb")
        self._writer = os.fdopen(to_worker, "wb")


popen_pool.PopenWorker = _Worker  # the runner's pool makes its own, too


@derived_object
class SteadyBuilder(PyBuilder):  # type: ignore[misc]
    """Builds candidates in worker processes, which are restarted when one crashes, hangs or has
    been used for long."""

    def __init__(self, initializer: Callable[[], None]) -> None:
        super().__init__()
        self._pool = PopenPoolExecutor(
            max_workers=_WORKERS,
            timeout=_SECONDS,
            initializer=initializer,
            maximum_process_uses=_USES,
        )

    def build(self, build_inputs: list[Any]) -> list[Any]:
        """A path for each candidate that could be built, an error for each other."""
        calls = [(_worker_func, (None, None, i.mod, i.target, None)) for i in build_inputs]
        # a lambda is sent by value: to find a function by its name, a worker would import torch
        done = self._pool.map_with_error_catching(lambda call: call[0](*call[1]), calls)
        return [_result(outcome) for outcome in done]

    def close(self) -> None:
        """End the workers."""
        self._pool.shutdown()


def _result(outcome: Any) -> Any:
    if outcome.status == StatusKind.COMPLETE:
        return BuilderResult(outcome.value, None)
    if outcome.status == StatusKind.TIMEOUT:
        return BuilderResult(None, f"not built in {_SECONDS} seconds")
    return BuilderResult(None, f"building failed: {outcome.value}")
