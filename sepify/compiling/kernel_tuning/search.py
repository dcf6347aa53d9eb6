"""Which knobs to try, in which order: one kind of knob at a time from the default on, the likeliest
values first."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine

_BETTER = 0.99  # of the best so far, or it is noise


def search(
    workload: Workload, machine: Machine
) -> Generator[tuple[Knobs, ...], Sequence[float | None], None]:
    """Yields candidates that may be timed at the same time, the default one alone first; is sent
    the time of each over the default's, in their order, None for one that failed. Ends when no
    neighbour of the best is left untried."""
    best = workload.default_knobs(machine)
    tried = {workload.kernel(machine, best).name}
    fastest = (yield (best,))[0] or 1.0
    improved = True
    while improved:
        improved = False
        for axis in workload.kind.axes:
            group = []
            for knobs in axis(workload, machine, best):
                # other knobs may give the very same kernel
                name = workload.kernel(machine, knobs).name
                if name not in tried:
                    tried.add(name)
                    group.append(knobs)
            if not group:
                continue
            for knobs, relative in zip(group, (yield tuple(group)), strict=True):
                if relative is not None and relative < fastest * _BETTER:
                    best, fastest, improved = knobs, relative, True
