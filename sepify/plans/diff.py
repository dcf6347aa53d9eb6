"""What differs between two plans, layer by layer and in all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sepify.plans.plan import Decision, Plan
from sepify.printable import printable_tree

FORMAT = "sepify-plan-diff"
VERSION = 2  # 1 said nothing of shapes


@dataclass(frozen=True)
class Change:
    """One convolution of which the plans think differently: what each does ("keep", "dw-pw 2",
    None where it says nothing), what that costs in multiply-adds, and the second one's reason."""

    name: str
    first: str | None
    second: str | None
    first_macs: int | None
    second_macs: int | None
    reason: str


@dataclass(frozen=True)
class PlanDiff:
    """The changes in the order of the first plan, then those that only the second has; how many
    convolutions are treated alike; multiply-adds (where known) and parameters of all of them;
    style, width and resolution of each plan in words."""

    changes: tuple[Change, ...]
    alike: int
    macs: tuple[int | None, int | None]
    params: tuple[int, int]
    shapes: tuple[str, str]

    def to_dict(self) -> dict[str, Any]:
        """In plain JSON types, keys in a stable order."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def render(self) -> Group:
        """For a terminal of 80 columns."""
        total = f"MACs {_number(self.macs[0])} -> {_number(self.macs[1])}, "
        total += f"parameters {self.params[0]:,} -> {self.params[1]:,}"
        if self.shapes[0] != self.shapes[1]:
            total += f"\n{self.shapes[0]} -> {self.shapes[1]}"
        if not self.changes:
            return Group(Text(f"the plans do the same to all {self.alike} convolutions\n{total}"))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("layer", overflow="fold", max_width=24)
        table.add_column("first")
        table.add_column("second")
        table.add_column("MACs", justify="right")
        table.add_column("why the second", overflow="fold", max_width=30)
        for change in self.changes:
            macs = _ratio(change.first_macs, change.second_macs)
            change = printable_tree(change)
            cells = [change.name, change.first or "-", change.second or "-", macs, change.reason]
            table.add_row(*(Text(cell) for cell in cells))
        return Group(table, Text(f"{len(self.changes)} differ, {self.alike} alike; {total}"))


def diff_plans(first: Plan, second: Plan) -> PlanDiff:
    """What `second` does differently from `first`."""
    mine, theirs = ({d.name: d for d in plan} for plan in (first, second))
    changes, alike = [], 0
    for name in dict.fromkeys([*mine, *theirs]):
        one, other = mine.get(name), theirs.get(name)
        if _words(one) == _words(other):
            alike += 1
            continue
        changes.append(
            Change(
                name,
                _words(one),
                _words(other),
                None if one is None else one.after.macs,
                None if other is None else other.after.macs,
                "" if other is None else other.reason,
            )
        )
    return PlanDiff(
        tuple(changes),
        alike,
        (_macs(first), _macs(second)),
        (sum(d.after.params for d in first), sum(d.after.params for d in second)),
        (first.shape, second.shape),
    )


def _words(decision: Decision | None) -> str | None:
    return None if decision is None else decision.form.short


def _macs(plan: Plan) -> int | None:
    macs = [decision.after.macs for decision in plan]
    return None if None in macs else sum(value or 0 for value in macs)


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _ratio(first: int | None, second: int | None) -> str:
    return "-" if not first or second is None else f"{second / first:.2f}x"
