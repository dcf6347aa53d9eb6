"""The page and the Markdown say what the report says, and nothing of a name becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report.samples import (
    BOARD,
    EVIL,
    VARIANTS,
    Page,
    each_variant,
    load_report_of,
    page_of,
    report,
)

from sepify.measuring import Report
from sepify.measuring.notes import board_notes
from sepify.report import figures
from sepify.report.html import SCRIPTS, as_html
from sepify.report.markdown import as_markdown


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
