"""An option's old spelling is refused by the new one's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import sepify
from sepify.errors import UsageError
from sepify.process.renamed import renamed


@renamed(old="new=...")
def double(new: int = 1) -> int:
    """Twice `new`."""
    return 2 * new


def test_new_spellings_go_through() -> None:
    assert double(new=3) == 6
    assert double.__doc__ == "Twice `new`."


def test_old_ones_are_refused() -> None:
    with pytest.raises(UsageError, match=r"old=\.\.\. is now new=\.\.\."):
        double(**{"old": 3})


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        (sepify.convert, "method", "solver=Solver"),
        (sepify.convert, "farm", "budget=Budget"),
        (sepify.plan, "allow_costlier", "architecture=Architecture\\(costlier"),
        (sepify.plan, "labelled", "budget=Budget"),
        (sepify.compare, "threads", "timing=Timing"),
        (sepify.compare, "names", "judging=Judging"),
        (sepify.compare, "measurements", "alternatives=Alternatives"),
        (sepify.compare, "sizes", "provenance=Provenance"),
        (sepify.distill, "augment", "training=Training"),
        (sepify.distill, "resume", "checkpoint=Checkpoint"),
    ],
)
def test_public_functions_name_what_has_moved(
    function: Callable[..., Any], old: str, new: str
) -> None:
    with pytest.raises(UsageError, match=rf"{old}=\.\.\. is now {new}"):
        function(**{old: None})
