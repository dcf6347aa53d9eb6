"""TVM is optional, and slow to import: asked for when it is needed and not before."""

from __future__ import annotations

import importlib.util
import os
import sys

from sepify.errors import DependencyError

TVM_ABSENT = "compiling needs Apache TVM: pip install 'sepify[tvm]'"


def require_tvm() -> None:
    """Load TVM's runtime. Every public function that needs TVM calls this first. Raises
    DependencyError if TVM is not installed.

    TVM reads how many threads there may be while it loads, and takes half of the cores if not told:
    here it is told all of them. OMP_NUM_THREADS, if set, limits how many are used at first.
    """
    if importlib.util.find_spec("tvm") is None:
        raise DependencyError(TVM_ABSENT)
    if "tvm" in sys.modules or "TVM_NUM_THREADS" in os.environ:
        return
    os.environ["TVM_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    from sepify.compiling import thread_pool

    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdigit() and int(limit) > 0:
        thread_pool.use_threads(int(limit))
