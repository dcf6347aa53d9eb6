"""sepify doctor."""

from __future__ import annotations

from sepify.cli.outcome import Outcome

EXAMPLES = (
    "sepify doctor",
    "sepify doctor --json | jq '.commands[] | select(.ready | not)'",
)


def doctor() -> Outcome:
    """What is installed, what this CPU can do, and what is missing for which command."""
    from sepify.jobs.doctor import examine, render

    found = examine()
    return Outcome(render(found), found.to_dict())
