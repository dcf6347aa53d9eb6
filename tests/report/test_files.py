"""Reports as files: saved, read again, damaged, of earlier versions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from report.samples import (
    each_variant,
    report,
)

from sepify.errors import FileError, UsageError
from sepify.measuring import Report, load_report
from sepify.report.model import (
    report_schema,
)
from sepify.report.render import RENDERERS, save
from sepify.report.report import compare_reports


@each_variant
def test_json_round_trip(made: Report, tmp_path: Path) -> None:
    made.save(tmp_path / "x.json")
    assert load_report(tmp_path / "x.json") == made
    document = json.loads((tmp_path / "x.json").read_text())
    assert (document["format"], document["version"]) == ("sepify-report", 4)
    assert Report.from_dict(made.to_dict()) == made


@each_variant
def test_json_fits_the_published_schema(made: Report) -> None:
    schema = report_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    document = made.to_dict()
    assert list(validator.iter_errors(document)) == []
    for broken in (
        document | {"colour": 1},
        document | {"seed": "0"},
        document | {"version": 1},
        {key: value for key, value in document.items() if key != "layers"},
    ):
        assert not validator.is_valid(broken)


def test_a_report_of_version_2_is_read(tmp_path: Path) -> None:
    document = report(board=None).to_dict() | {"version": 2}
    del document["board"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert load_report(tmp_path / "old.json") == report(board=None)


def test_a_report_of_version_3_is_read(tmp_path: Path) -> None:
    document = report().to_dict() | {"version": 3}
    del document["warnings"], document["judged_on"]
    del document["fidelity"]["commonest"], document["fidelity"]["spread"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert load_report(tmp_path / "old.json") == report()


@pytest.mark.parametrize("suffix", RENDERERS)
def test_each_suffix_has_a_renderer_for_reports_and_comparisons(
    suffix: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        report().save(tmp_path / f"{name}.report.json")
    both = compare_reports([tmp_path / "a.report.json", tmp_path / "b.report.json"])
    for document, named in ((report(), "Net"), (both, "original")):
        save(document, tmp_path / f"x{suffix}")
        text = (tmp_path / f"x{suffix}").read_text("utf-8")
        assert named in text
        assert text.endswith("\n")


def test_saved_text_is_what_is_printed(tmp_path: Path) -> None:
    report().save(tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text("utf-8") == f"{report()}\n"


def test_saving_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"saved as \.json, \.html, \.md, \.txt"):
        report().save(tmp_path / "x.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        report().save(tmp_path / "file" / "x.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def damaged(*path: Any, value: Any) -> dict[str, Any]:
    document = report().to_dict()
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], 'not a report: "format" is not "sepify-report"'),
        (damaged("format", value="sepify-plan"), "not a report"),
        (damaged("version", value=1), "report version 1; sepify reads 2, 3"),
        (damaged("seed", value="0"), "report.seed is str, not int"),
        (damaged("seed", value=True), "report.seed is bool, not int"),
        (damaged("before", value={}), "report.before.macs is missing"),
        (damaged("colour", value=1), "report.colour is not a field"),
        (damaged("layers", 1, "kernel", value=3), r"report.layers\[1\].kernel is int, not list"),
        (
            damaged("fidelity", "cosine", value=float("nan")),
            r"NaN is not a number of JSON at line 1, col",
        ),
    ],
)
def test_a_damaged_report_says_where(document: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FileError, match=message) as caught:
        load_report(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(FileError, match="no such file"):
        load_report(tmp_path / "missing.json")


def test_importing_measuring_loads_neither_tvm_nor_a_plotting_library() -> None:
    code = (
        "import sys, sepify.measuring; "
        "print([m for m in ('tvm', 'matplotlib', 'jinja2', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
