"""Options of `convert`, `plan` and `compare`, written flat in a table of cases, in their groups."""

from typing import Any

import sepify

GROUPS = {
    "architecture": (sepify.Architecture, ("form", "style", "width", "resolution", "costlier")),
    "solver": (sepify.Solver, ("method", "refine", "memory", "holdout")),
    "judging": (sepify.Judging, ("unlabelled", "metric", "names", "unjudged")),
    "timing": (
        sepify.Timing,
        ("target", "threads", "compiled", "seconds", "seed", "farm", "device_target"),
    ),
    "alternatives": (sepify.Alternatives, ("beside", "measurements")),
}


def grouped(options: dict[str, Any], **more: Any) -> dict[str, Any]:
    """`options` and `more` as keywords of a public function."""
    given = {**options, **more}
    groups: dict[str, Any] = {}
    for group, (kind, names) in GROUPS.items():
        told = {name: given.pop(name) for name in names if name in given}
        if told:
            groups[group] = kind(**told)
    return {**given, **groups}
