"""TVM is optional, and slow to import: asked for when it is needed and not before."""

from __future__ import annotations

import importlib.util
import os
import sys

from sepify.errors import DependencyError


def require_tvm() -> None:
    """Load tvm, with a thread pool of the right size. Every public function that needs TVM
    calls this first. Raises DependencyError if TVM is not installed.

    TVM reads the size of its thread pool while it loads, and takes half of the cores if not told:
    here it is told all of them. OMP_NUM_THREADS, if set, limits how many are used at first.
    """
    if importlib.util.find_spec("tvm") is None:
        raise DependencyError("compiling needs Apache TVM: pip install 'sepify[tvm]'")
    if "tvm" in sys.modules or "TVM_NUM_THREADS" in os.environ:
        return
    os.environ["TVM_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    from sepify.compiling import tvm_api

    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdigit() and int(limit) > 0:
        tvm_api.set_thread_count(int(limit))
