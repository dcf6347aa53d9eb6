from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from rich.console import Console

from sepify.errors import FileError, UsageError
from sepify.judging import number_words
from sepify.judging.changes import Changes, ChangeTally
from sepify.judging.fidelity import Fidelity
from sepify.judging.metrics import MetricResult
from sepify.judging.statistics import Accuracy, Interval
from sepify.measuring import Report, load_report
from sepify.measuring.notes import board_notes
from sepify.process.machine import Machine
from sepify.report import figures
from sepify.report.html import SCRIPTS, as_html
from sepify.report.markdown import as_markdown
from sepify.report.model import (
    InputFile,
    LayerRow,
    Origin,
    Prospect,
    RankPoint,
    Totals,
    Variant,
    report_schema,
)
from sepify.report.render import RENDERERS, save
from sepify.report.report import compare_reports
from sepify.timing.board import BoardLatency
from sepify.timing.race import Latency, LatencyRow, Ratio, Skipped, Spread

EVIL = "<script>alert('x')</script>.$\\frac$[bold]"


def layer(name: str, macs: tuple[int, int], error: float | None = 0.25) -> LayerRow:
    return LayerRow(
        name=name,
        kind="convolution",
        kernel=(128, 64, 3, 3),
        action="separate" if error is not None else "keep",
        order="dw-pw" if error is not None else None,
        rank=2 if error is not None else None,
        reason="asked for" if error is not None else "first layer & <last>",
        macs_before=macs[0],
        macs_after=macs[1],
        params_before=73_728,
        params_after=8_768,
        error=error,
        heldout_error=None,
        measured_error=None if error is None else 1.1 * error,
        curve=() if error is None else (RankPoint("dw-pw", 1, macs[1], 0.5, 0.1, True),),
    )


def spread(median: float) -> Spread:
    return Spread(0.9 * median, 0.95 * median, median, 1.1 * median, 96)


def changes() -> Changes:
    tally = ChangeTally(("cat", EVIL))
    pictures = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).float()
    scores = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    tally.add(pictures, torch.tensor([0, 1]), scores, scores.flip(1))
    return tally.result()


BOARD = BoardLatency(
    board="10.0.0.2:9090",
    target="raspberry-pi-4",
    machine=Machine("Board <4>, Cortex-A72", 4, ("asimd",), "Linux 6.6 aarch64", "ondemand"),
    emulated=False,
    rows=(
        LatencyRow("TVM, raspberry-pi-4", 1, spread(0.04), spread(0.02), Ratio(2, 1.9, 2.1), None),
        LatencyRow("TVM, raspberry-pi-4", 4, spread(0.013), spread(0.0051), Ratio(2.5, 2, 3), None),
    ),
    batch=1,
    repeats=3,
    method="In turns.",
)


def report(**changed: Any) -> Report:
    """A report with every part in it, made by hand: nothing measured, so nothing that varies."""
    made = Report(
        network="Net<b>",
        created="2026-01-02T03:04:05+00:00",
        machine=Machine("A CPU", 2, ("avx2", "fma"), "Linux 6.1 x86_64", "performance"),
        versions={"python": "3.11.7", "torch": "2.13.0"},
        seed=0,
        inputs=((1, 3, 224, 224),),
        method="svd",
        before=Totals(20_000_000, 700_000, 2_800_000, "TorchScript file"),
        after=Totals(4_000_000, 100_000, 420_000, "TorchScript file"),
        layers=(
            layer("stem", (2_000_000, 2_000_000), None),
            layer(EVIL, (12_000_000, 1_500_000)),
            layer("a.very.long.name." + "block." * 12 + "conv", (6_000_000, 500_000), 0.5),
        ),
        latency=Latency(
            rows=(
                LatencyRow("torch", 1, spread(0.012), spread(0.006), Ratio(2, 1.9, 2.2), None),
                LatencyRow("TVM", 1, None, spread(0.001), None, Ratio(8.0, 7.5, 8.5)),
            ),
            skipped=(Skipped("onnxruntime", "onnx not installed: pip install 'sepify[onnx]'"),),
            batch=1,
            rounds=24,
            repeats=4,
            restless=0,
            others=0.25,
            method="In turns.",
        ),
        accuracy=Accuracy(
            images=10_000,
            before=Interval(0.9276, 0.9224, 0.9325),
            after=Interval(0.918, 0.9125, 0.9232),
            difference=Interval(-0.0096, -0.0131, -0.0061),
            lost=210,
            gained=114,
            p=1e-7,
        ),
        fidelity=Fidelity(10_000, Interval(0.96, 0.956, 0.964), 0.9912, 21.7, False),
        board=BOARD,
        notes=("Beware of <i>dogs</i>.",),
        changes=changes(),
        variants=(Variant("uniform rank 2", 6_000_000, Interval(0.92, 0.915, 0.925)),),
        prospects=(Prospect(3e6, 0.2), Prospect(9e6, 0.0)),
        prospect_unit="kl",
        origin=Origin(
            f"sepify report '{EVIL}' small.pt",
            (InputFile("the original", EVIL, 3, "0" * 64),),
            {"format": "sepify-plan", "why": EVIL},
        ),
    )
    return replace(made, **changed)


VARIANTS = {
    "whole": report(),
    "no labels": report(accuracy=None, changes=None),
    "a metric": report(
        accuracy=None,
        changes=None,
        metrics=(
            MetricResult(
                "dice<b>",
                60,
                Interval(0.8, 0.7, 0.9),
                Interval(0.7, 0.6, 0.8),
                Interval(-0.1, -0.2, 0.0),
            ),
        ),
    ),
    "an emulated board": report(
        board=replace(BOARD, emulated=True, rows=(LatencyRow(EVIL, 4, None, None, None, None),))
    ),
    "bare": report(
        accuracy=None, changes=None, variants=(), prospects=(), prospect_unit="", origin=Origin()
    ),
    "no classes": report(accuracy=None, changes=None, fidelity=Fidelity(1, None, 1.0, None, True)),
    "nothing timed": report(latency=None, board=None, notes=()),
    "nothing to do": report(
        layers=(), before=Totals(0, 0, 9, "file"), after=Totals(0, 0, 9, "file")
    ),
}
each_variant = pytest.mark.parametrize("made", VARIANTS.values(), ids=VARIANTS)


class Page(HTMLParser):
    """Tags opened and closed in order, every attribute, and the text."""

    VOID = ("meta", "br", "link", "img", "hr", "input")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@each_variant
def test_json_round_trip(made: Report, tmp_path: Path) -> None:
    made.save(tmp_path / "x.json")
    assert load_report(tmp_path / "x.json") == made
    document = json.loads((tmp_path / "x.json").read_text())
    assert (document["format"], document["version"]) == ("sepify-report", 4)
    assert Report.from_dict(made.to_dict()) == made


@each_variant
def test_html_is_one_whole_page_that_asks_for_nothing(made: Report, tmp_path: Path) -> None:
    made.save(tmp_path / "x.html")
    source = (tmp_path / "x.html").read_text("utf-8")
    page = Page(source)
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "base"}
    for _, attributes in page.tags:
        for name in ("src", "srcset", "href", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 1 + len(SCRIPTS)
    assert policy.count("'sha256-") == len(SCRIPTS)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    charts = [attributes for _, attributes in page.tags if "data-chart" in attributes]
    assert charts
    assert all(attributes["aria-label"] for attributes in charts)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")


def test_html_says_what_the_report_says(tmp_path: Path) -> None:
    report().save(tmp_path / "x.html")
    source = (tmp_path / "x.html").read_text("utf-8")
    text = " ".join(Page(source).text.split())
    assert text.index(figures.headline(report())) < text.index("Top-1 against cost")
    for figure in figures.key_figures(report()):
        assert f"{figure.before} → {figure.after} {figure.change}" in text
    for part in (
        "MACs 20.0 M",
        "40.0 M",
        "8.00\N{MULTIPLICATION SIGN}",
        "onnx not installed",
        "210",
        "p < 0.001",
        "uniform rank 2",
        "27.5 %",
        "sepify report",
        "0" * 64,
    ):
        assert part in text
    assert "first layer & <last>" in text
    assert "Beware of <i>dogs</i>." in text
    assert "prefers-color-scheme: dark" in source


def test_a_layer_called_script_stays_text(tmp_path: Path) -> None:
    report().save(tmp_path / "x.html")
    source = (tmp_path / "x.html").read_text("utf-8")
    assert "<script>alert" not in source
    assert "</script>.$" not in source
    assert EVIL in Page(source).text
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', source)
    assert facts is not None
    assert json.loads(facts[1])["layers"][1]["name"] == EVIL


@each_variant
def test_markdown_for_a_pull_request(made: Report, tmp_path: Path) -> None:
    made.save(tmp_path / "x.md")
    text = (tmp_path / "x.md").read_text("utf-8")
    assert text.startswith("### Net&lt;b&gt;: conversion report")
    assert "<script" not in text
    assert "{{" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert cells[0] == cells[-1].strip() == ""
    for head in re.finditer(r"^\|.*\|\n((?:\|-+)+\|)\n((?:\|.*\n)+)", text, re.M):
        columns = head[1].count("|")
        for row in head[2].splitlines():
            assert len(re.findall(r"(?<!\\)\|", row)) == columns


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


@pytest.mark.parametrize("name", ["10.0.0.2:9090", "Cortex-A72", "raspberry-pi-4"])
@pytest.mark.parametrize("show", [str, as_markdown, as_html])
def test_a_boards_times_are_named_as_the_boards(name: str, show: Any) -> None:
    text = show(report())
    flat = "".join(text.replace("\\", "").split())
    assert name in flat
    for part in ("13.0", "5.10", "2.50\N{MULTIPLICATION SIGN}"):
        assert part in flat
    assert "10.0.0.2:9090" not in show(report(board=None))


def test_an_emulator_has_no_milliseconds() -> None:
    made = VARIANTS["an emulated board"]
    assert not any("latency on" in figure.label for figure in figures.key_figures(made))
    table = str(made).partition("Latency on the board")[2].partition("Board <4>")[0]
    assert not re.search(r"\d\.\d", table.partition("compiled for")[2])
    (note,) = board_notes(replace(BOARD, emulated=True), True)
    assert "its times are left out" in note


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


def test_warnings_stand_on_top_whatever_the_form(tmp_path: Path) -> None:
    made = report(warnings=("It is <b>ruined</b>.", "And that, too."), notes=("A note.",))
    made.save(tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text("utf-8")
    assert 'role="alert"' in page
    assert "It is &lt;b&gt;ruined&lt;/b&gt;." in page
    assert page.index("ruined") < page.index("And that, too.") < page.index('<dl class="figures')
    made.save(tmp_path / "x.md")
    text = (tmp_path / "x.md").read_text("utf-8")
    assert text.index("> \N{WARNING SIGN} **Warning:** It is &lt;b&gt;ruined") < text.index(
        "| **MACs**"
    )
    assert "\n>\n> \N{WARNING SIGN} **Warning:** And that, too.\n" in text
    told = str(made)
    assert told.index("It is <b>ruined</b>.") < told.index("And that") < told.index("MACs   ")
    assert made.to_dict()["warnings"] == ["It is <b>ruined</b>.", "And that, too."]
    assert 'role="alert"' not in page_of(report(), tmp_path)


def test_what_was_not_measured_is_not_claimed(tmp_path: Path) -> None:
    made = report(fidelity=None, accuracy=None, top5=None, metrics=(), changes=None, variants=())
    page, text = page_of(made, tmp_path), str(made)
    made.save(tmp_path / "x.md")
    told = (tmp_path / "x.md").read_text("utf-8")
    for shown in (page, text, told):
        assert "none is claimed" in " ".join(shown.split())
        assert "cosine" not in shown.split("How to make it again")[0].lower()
    assert 'data-chart="frontier"' not in page
    assert load_report_of(made, tmp_path) == made
    judged = report(judged_on="held out: used for nothing else", accuracy=None, metrics=())
    for shown in (page_of(judged, tmp_path), str(judged)):
        assert "used for nothing else" in " ".join(shown.split())


def page_of(made: Report, folder: Path) -> str:
    made.save(folder / "page.html")
    return (folder / "page.html").read_text("utf-8")


def load_report_of(made: Report, folder: Path) -> Report:
    made.save(folder / "again.json")
    return load_report(folder / "again.json")


@each_variant
def test_text_fits_80_columns(made: Report) -> None:
    text = str(made)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("Net<b> after conversion needs")
    terminal = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    terminal.print(made)
    coloured = terminal.file.getvalue()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured.splitlines()]
    assert "\n".join(plain).strip("\n") == text


def test_text_says_what_the_report_says() -> None:
    text = str(report())
    squeezed = "".join(text.split())
    for part in (
        "5.00\N{MULTIPLICATION SIGN} fewer",
        "20.0 M",
        "40.0 M",
        "7.00\N{MULTIPLICATION SIGN} fewer",
        "12.0 ms",
        "onnxruntime was not timed: onnx not installed",
        "lost 210, gained 114",
        "92.76 %",
        "kept, first layer & <last>: stem",
        "dw-pw, rank 2",
        "Beware of",
    ):
        assert "".join(part.split()) in squeezed
    alone = report(layers=(layer(EVIL, (12_000_000, 1_500_000)),))
    first_column = [line.split(" ")[0] for line in str(alone).splitlines()]
    assert EVIL in "".join(first_column)  # folded over lines, and not read as markup


def test_headline_tells_slower_from_faster() -> None:
    assert "5.00\N{MULTIPLICATION SIGN} fewer MACs" in figures.headline(report())
    assert (
        "12.0\N{MULTIPLICATION SIGN} as fast as the fastest runtime on the original"
        in figures.headline(report())
    )
    rows = (LatencyRow("torch", 1, spread(0.001), spread(0.002), Ratio(0.5, 0.4, 0.6), None),)
    latency = report().latency
    assert latency is not None
    slower = report(latency=replace(latency, rows=rows), after=report().before)
    assert figures.headline(slower).startswith(
        "Net<b> after conversion needs as many MACs as before"
    )
    assert "takes 2.00\N{MULTIPLICATION SIGN} as long as the fastest runtime" in figures.headline(
        slower
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_234_567, "1.23 MB"),
        (4_866_269_184, "4.87 GB"),
    ],
)
def test_quantities(value: float, text: str) -> None:
    assert number_words.quantity(value, "B") == text


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
