"""MetaSchedule for the convolutions and matrix products that no own kernel computes.

Records live in a folder named after target and versions, so that those of another CPU or release
are never looked at. A record that is there is reused: tuning the same network again measures
nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepify.compiling.budget import Budget
from sepify.compiling.metaschedule_files import RECORDS, exclusive
from sepify.errors import SepifyError, TuningWarning, first_line

Progress = Callable[[str, int, int], None]

NOT_ASKED = "not tuned; tune='10min' (--tune 10min) makes them faster"
_WORTH_TUNING = ("conv", "matmul")


@dataclass(frozen=True)
class Tuned:
    """What tuning did: the operators that have a tuned schedule now, new trials, failed trials,
    operators whose records were there already, and those that keep TVM's plain loops, each with
    the reason: MetaSchedule found nothing that runs, or nobody asked for tuning."""

    operators: tuple[str, ...] = ()
    trials: int = 0
    failed: int = 0
    reused: int = 0
    given_up: dict[str, str] = field(default_factory=dict)


def tune_operators(
    module: Any,
    description: dict[str, Any],
    budget: Budget,
    database: Path | str | None,
    progress: Progress,
) -> Tuned:
    """Replace, in the fused `module`, every PrimFunc worth tuning by its best schedule, if it has
    one; without a budget, by the best that is on record.

    Warns (TuningWarning) of those that keep TVM's plain loops. Raises FileError if the database's
    folder cannot be written.
    """
    from sepify.compiling import tvm_api, tvm_runtime

    names = worth_tuning(module)
    if not names:
        return Tuned()
    folder = database_folder(database, description, tvm_runtime.VERSIONS)
    if budget.is_none and not (folder / RECORDS).is_file():
        return _warned(Tuned(given_up=dict.fromkeys(names, NOT_ASKED)))
    from sepify.compiling.metaschedule import Database

    with exclusive(folder):
        # MetaSchedule sizes parallel loops by it
        tuned_for = tvm_api.make_target({**description, "num-cores": os.cpu_count() or 1})
        with closing(Database(folder)) as records:
            return _warned(_tune_all(module, tuned_for, names, budget, records, progress))


def worth_tuning(module: Any) -> list[str]:
    """The PrimFuncs of a fused module that MetaSchedule should see to."""
    from sepify.compiling import tvm_api

    return [
        name
        for name, function in tvm_api.functions(module).items()
        if not tvm_api.is_own(function) and any(word in name for word in _WORTH_TUNING)
    ]


def database_root(database: Path | str | None) -> Path:
    """The folder of all tuning records: `database`, or `sepify` in the user's cache folder."""
    if database is not None:
        return Path(database)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sepify"


def database_folder(
    database: Path | str | None, description: dict[str, Any], versions: dict[str, str]
) -> Path:
    """Where MetaSchedule's records for a target and these versions are kept."""
    identity = json.dumps([description, versions], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return database_root(database) / f"{description['mcpu']}-tvm{versions['tvm']}-{digest}"


def _tune_all(
    module: Any,
    target: Any,
    names: list[str],
    budget: Budget,
    records: Any,
    progress: Progress,
) -> Tuned:
    from sepify.compiling import tvm_api

    functions = tvm_api.functions(module)
    started = time.monotonic()
    counts = _Counts()
    given_up: dict[str, str] = {}
    for index, name in enumerate(names):
        progress(f"tuning {name}", index, len(names))
        function = functions[name]
        left = len(names) - index
        wanted = budget.share(left, counts.trials)
        measured, valid = records.measured(function)
        try:
            if valid and (budget.is_none or measured >= wanted):
                counts.reused += 1
            elif budget.is_none:
                given_up[name] = NOT_ASKED
                continue
            else:
                limit = budget.deadline(started, left, time.monotonic())
                errors = _measure(records, function, target, wanted, limit, counts)
                if records.measured(function)[1] == 0:
                    first = errors[0].strip().splitlines()[-1] if errors else "none was found"
                    given_up[name] = f"every candidate failed; the first: {first}"
                    continue
            best = records.best(function, target, name)
        except SepifyError:
            raise
        except Exception as error:  # TVM's own, of several types
            given_up[name] = f"MetaSchedule failed: {first_line(error)}"
            continue
        tvm_api.replace_function(module, name, best)
    progress("tuning", len(names), len(names))
    tuned = tuple(name for name in names if name not in given_up)
    return Tuned(tuned, counts.trials, counts.failed, counts.reused, given_up)


def _warned(tuned: Tuned) -> Tuned:
    for line in plain_loops(tuned.given_up):
        warnings.warn(line, TuningWarning, stacklevel=3)
    return tuned


def plain_loops(given_up: Mapping[str, str]) -> list[str]:
    """A sentence for each reason why operators keep TVM's plain loops."""
    names: dict[str, list[str]] = {}
    for name, why in given_up.items():
        names.setdefault(why, []).append(name)
    return [
        f"{len(them)} operator(s) without a kernel of sepify's run as TVM's plain loops "
        f"({', '.join(them[:3])}{', ...' if len(them) > 3 else ''}): {why}"
        for why, them in names.items()
    ]


@dataclass
class _Counts:
    trials: int = 0
    failed: int = 0
    reused: int = 0


def _measure(
    records: Any, function: Any, target: Any, trials: int, deadline: float | None, counts: _Counts
) -> list[str]:
    """Measure candidates of one operator; what went wrong with those that failed."""
    from sepify.compiling.metaschedule import Stop

    failures: list[str] = []

    def report(measured: int, errors: list[str]) -> None:
        counts.trials += measured
        counts.failed += len(errors)
        failures.extend(errors)
        if deadline is not None and time.monotonic() > deadline:
            raise Stop

    records.tune(function, target, trials, report)
    return failures
