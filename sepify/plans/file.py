"""plan.json: a plan as a file that a person can read, edit and convert with again."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

from sepify.errors import FileError, PlanError
from sepify.faults import reading
from sepify.plans.costs import Cost
from sepify.plans.form import FieldError, Form
from sepify.plans.forms import form_fields, form_from_dict, form_to_dict
from sepify.plans.plan import METHODS, Decision, Outlook, Plan
from sepify.plans.styles import STYLES, Style
from sepify.storage import decode, parse_json, read_text, write_json

Place = tuple[str | int, ...]  # keys and indices from the top: ("convolutions", 3, "rank")

FORMAT = "sepify-plan"
VERSION = 6
# 1 had no outlook, and of costs only MACs and parameters; 2 had no style and no multipliers,
# 3 did not say what was held out; 4 had an action, and an order and a rank for every convolution,
# 5 no precision
READ_VERSIONS = (1, 2, 3, 4, 5, 6)

SHAPE = ("style", "width", "resolution")
TOP = (
    "format",
    "version",
    *SHAPE,
    "method",
    "batchnorm_reestimated",
    "heldout",
    "outlook",
    "convolutions",
)
_WHOLE, _TIMES = tuple[int | None, int | None], tuple[float | None, float | None]
NOTES: dict[str, tuple[Any, Any]] = {  # key -> its type, and what it is where it is left out
    "precision": (str, "float32"),
    "reason": (str, ""),
    "kernel": (tuple[int, ...], ()),
    "macs": (_WHOLE, (None, None)),
    "params": (tuple[int, int], (0, 0)),
    "moved": (_WHOLE, (None, None)),
    "seconds": (_TIMES, (None, None)),
    "error": (float | None, None),
    "heldout_error": (float | None, None),
    "block_error": (float | None, None),
    "damage": (float | None, None),
}


def save_plan(plan: Plan, path: Path | str) -> None:
    """Write `plan` as JSON, whole or not at all. A plan holds no NaN and no infinity: it refuses
    them when it is made. Raises FileError."""
    write_json(path, plan_to_dict(plan))


def load_plan(path: Path | str) -> Plan:
    """Read a plan. Raises FileError if it is not JSON, PlanError naming the line at fault."""
    text = read_text(path)
    parse_json(text, path, repeated_keys=True)  # says where a fault is
    try:
        with reading(path, "a plan"):
            document, lines = read_with_lines(text)
            return plan_from_dict(document, lines)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """`plan` in plain JSON types, keys in a stable order."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "style": plan.style,
        "width": plan.width,
        "resolution": None if plan.resolution is None else list(plan.resolution),
        "method": plan.method,
        "batchnorm_reestimated": plan.batchnorm,
        "heldout": plan.heldout,
        "outlook": None if plan.outlook is None else asdict(plan.outlook),
        "convolutions": [_entry(decision) for decision in plan],
    }


def _entry(decision: Decision) -> dict[str, Any]:
    before, after = decision.before, decision.after
    return {
        "name": decision.name,
        **form_to_dict(decision.form),
        "precision": decision.precision,
        "reason": decision.reason,
        "kernel": list(decision.kernel),
        "macs": [before.macs, after.macs],
        "params": [before.params, after.params],
        "moved": [before.moved, after.moved],
        "seconds": [before.seconds, after.seconds],
        "error": decision.error,
        "heldout_error": decision.heldout_error,
        "block_error": decision.block_error,
        "damage": decision.damage,
    }


def plan_from_dict(document: Any, lines: Mapping[Place, int] | None = None) -> Plan:
    """The plan in a document that `plan_to_dict` made or a person edited; `lines` say where each
    part of it stands in a file. Raises PlanError, with the line, for whatever cannot be done
    exactly as it is written: an unknown key, too.

    `precision`, `reason`, the costs, the errors and `damage` are notes: they may be left out.
    """
    return _Reader(lines or {}).plan(document)


class _Reader:
    def __init__(self, lines: Mapping[Place, int]) -> None:
        self.lines = lines
        self.form_key = "form"

    def fail(self, place: Place, message: str) -> NoReturn:
        line = self.lines.get(place) or self.lines.get(place[:-1])
        raise PlanError(f"line {line}: {message}" if line else message)

    def plan(self, document: Any) -> Plan:
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            self.fail(("format",), f'not a plan: "format" is not "{FORMAT}"')
        version = document.get("version")
        if type(version) is not int or version not in READ_VERSIONS:
            told = f"plan version {version!r}; this sepify reads 1 to {VERSION}"
            self.fail(("version",), told)
        self.form_key = "form" if version >= 5 else "action"
        self.known(document, TOP, ())
        entries = document.get("convolutions")
        if not isinstance(entries, list):
            self.fail(("convolutions",), '"convolutions" is not a list')
        decisions: dict[str, Decision] = {}
        for index, entry in enumerate(entries):
            decision = self.decision(entry, ("convolutions", index))
            if decision.name in decisions:
                self.fail(("convolutions", index, "name"), f"'{decision.name}' is listed twice")
            decisions[decision.name] = decision
        method = document.get("method")
        if method is not None and method not in METHODS:
            told = f'"method" is {method!r}, none of {", ".join(METHODS)} or null'
            self.fail(("method",), told)
        batchnorm = document.get("batchnorm_reestimated", False)
        if not isinstance(batchnorm, bool):
            self.fail(("batchnorm_reestimated",), f'"batchnorm_reestimated" is {batchnorm!r}')
        outlook = self.outlook(document.get("outlook"))
        heldout = document.get("heldout")
        share = isinstance(heldout, int | float) and not isinstance(heldout, bool)
        if heldout is not None and not (share and 0 < heldout <= 1):
            told = f'"heldout" is {heldout!r}, neither a share in (0, 1] nor null'
            self.fail(("heldout",), told)
        return Plan(
            tuple(decisions.values()), method, batchnorm, outlook, *self.shape(document), heldout
        )

    def shape(self, document: dict[str, Any]) -> tuple[Style, float, tuple[int, int] | None]:
        style, width = document.get("style", "linear"), document.get("width", 1.0)
        if style not in STYLES:
            self.fail(("style",), f'"style" is {style!r}, none of {", ".join(STYLES)}')
        if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 1:
            self.fail(("width",), f'"width" is {width!r}, no share above 0 and at most 1')
        size = document.get("resolution")
        if size is None:
            return style, float(width), None
        whole = isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)
        if not whole or min(size) < 1:
            told = f'"resolution" is {size!r}, neither [height, width] in pixels nor null'
            self.fail(("resolution",), told)
        return style, float(width), (size[0], size[1])

    def outlook(self, value: Any) -> Outlook | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(("outlook",), '"outlook" is neither an object nor null')
        self.known(value, tuple(field.name for field in fields(Outlook)), ("outlook",))
        try:
            return decode(Outlook, {"verified": None, **value}, "outlook")
        except (FileError, PlanError) as error:
            self.fail(("outlook",), f'"outlook" cannot be read ({error}); leave it out')

    def decision(self, entry: Any, place: Place) -> Decision:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            self.fail(place, f"convolution {int(place[-1]) + 1} has no name")
        name = entry["name"]
        self.known(entry, ("name", self.form_key, *form_fields(), *NOTES), place)
        form = self.form(entry, place)
        notes = {key: self.note(entry, key, place) for key in NOTES}
        costs = [notes.pop(key) for key in ("macs", "params", "moved", "seconds")]
        before, after = (Cost(*each) for each in zip(*costs, strict=True))
        if any(extent < 1 for extent in notes["kernel"]):
            self.fail((*place, "kernel"), f"'{name}': kernel {list(notes['kernel'])} has no values")
        try:
            return Decision(
                name, form, before=before, after=after, line=self.lines.get(place), **notes
            )
        except PlanError as error:
            self.fail(place, str(error))

    def form(self, entry: dict[str, Any], place: Place) -> Form:
        given = {key: entry[key] for key in form_fields() if key in entry}
        if self.form_key == "action":  # order and rank were null where they said nothing
            given = {key: value for key, value in given.items() if value is not None}
        try:
            return form_from_dict({"form": entry.get(self.form_key), **given})
        except FieldError as error:
            key = self.form_key if error.field == "form" else error.field
            self.fail((*place, key), f"'{entry['name']}': {error}")

    def note(self, entry: dict[str, Any], key: str, place: Place) -> Any:
        kind, absent = NOTES[key]
        if key not in entry:
            return absent
        try:
            return decode(kind, entry[key], key)
        except FileError as error:
            self.fail((*place, key), f"'{entry['name']}': {error}")

    def known(self, entry: dict[str, Any], keys: tuple[str, ...], place: Place) -> None:
        for key in entry:
            if key not in keys:
                told = f'"{key}" is not a key that a plan has here; it has {", ".join(keys)}'
                self.fail((*place, key), told)


_SCALAR = json.JSONDecoder()


def read_with_lines(text: str) -> tuple[Any, dict[Place, int]]:
    """The value of valid JSON, and the line, from 1, on which each part of it begins (of a member
    of an object: its key). Raises PlanError for a key that is given twice, which JSON allows."""
    lines: dict[Place, int] = {}

    ends = [match.start() for match in re.finditer("\n", text)]

    def line(index: int) -> int:
        return bisect_left(ends, index) + 1

    def skip(index: int) -> int:
        while text[index] in " \t\n\r":
            index += 1
        return index

    def value(index: int, path: Place) -> tuple[Any, int]:
        lines.setdefault(path, line(index))
        if text[index] == "{":
            return members(index, path)
        if text[index] == "[":
            return items(index, path)
        return _SCALAR.raw_decode(text, index)

    def members(index: int, path: Place) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        index = skip(index + 1)
        while text[index] != "}":
            at = index
            key, index = _SCALAR.raw_decode(text, index)
            if key in found:
                raise PlanError(f'line {line(at)}: "{key}" is given twice')
            here = (*path, key)
            lines[here] = line(at)
            found[key], index = value(skip(skip(index) + 1), here)
            index = skip(index)
            if text[index] == ",":
                index = skip(index + 1)
        return found, index + 1

    def items(index: int, path: Place) -> tuple[list[Any], int]:
        found: list[Any] = []
        index = skip(index + 1)
        while text[index] != "]":
            item, index = value(index, (*path, len(found)))
            found.append(item)
            index = skip(index)
            if text[index] == ",":
                index = skip(index + 1)
        return found, index + 1

    return value(skip(0), ())[0], lines
