"""Every code block of the documentation runs, and what it points at is there."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import sepify
from sepify.cli import main
from sepify.demo.data import MODEL_FILE, load_demo_data

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# tests/distilling runs the blocks of distillation.md; the mobilenet page's speak of a network of
# 224 pixels and of ten epochs, the README's and planning.md's of one that takes a budget of 250k
OTHERS = ("distillation.md", "mobilenet.md", "planning.md")
PAGES = sorted(p for p in DOCS.glob("*.md") if p.name not in OTHERS)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sepify.errors.SepifyWarning"),
]


def blocks(path: Path, language: str) -> list[tuple[int, str]]:
    """Line and text of each fenced block."""
    text = path.read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def pages_with(language: str) -> Iterator[Any]:
    for path in PAGES:
        if blocks(path, language):
            yield pytest.param(path, id=path.name)


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for line, source in blocks(page, "python"):
        exec(compile("\n" * line + source, str(page), "exec"), names)


@pytest.mark.parametrize("page", pages_with("sh"))
def test_shell_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_demo_data()
    (tmp_path / "model.pt").write_bytes(MODEL_FILE.read_bytes())
    np.save("images.npy", data.calibration[:32].numpy())
    np.savez("test.npz", images=data.images[:64].numpy(), labels=data.labels[:64].numpy())
    for line, source in blocks(page, "sh"):
        for command in source.splitlines():
            monkeypatch.setattr(sys, "argv", shlex.split(command))
            with pytest.raises(SystemExit) as stop:
                main()
            assert not stop.value.code, f"{page.name}, line {line}: {command}"


def test_the_api_page_names_what_there_is() -> None:
    named = re.findall(r"^::: sepify\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.M)
    assert len(named) > 15
    assert set(named) == set(sepify.__all__)


def test_the_navigation_and_links_lead_somewhere() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = {name for entry in site["nav"] for name in entry.values()}
    assert listed <= {path.name for path in DOCS.glob("*.md")}
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (DOCS / target).is_file(), f"{page.name}: {target}"
        for snippet in re.findall(r'--8<-- "(.+)"', page.read_text("utf-8")):
            assert (ROOT / snippet).is_file(), f"{page.name}: {snippet}"


def test_the_pass_in_contributing_is_the_real_one() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    ((_, shown),) = blocks(ROOT / "CONTRIBUTING.md", "python")
    assert shown == (ROOT / "sepify" / "passes" / "fold_batchnorm.py").read_text("utf-8")
    assert 35 <= len(shown.splitlines()) <= 50
    for name in re.findall(r"`((?:sepify|tests|docs|benchmarks)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name
