"""The table of formats: its rows lead somewhere, and words and refusals follow from it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from sepify.errors import DependencyError, UsageError
from sepify.formats import table
from sepify.formats.table import FACTORY, FORMATS, Format, Reader, Writer, input_format

READ = [row for row in FORMATS if row.reads]
WRITTEN = [row for row in FORMATS if row.writes]


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("row", READ, ids=lambda row: row.words)
def test_a_reader_has_what_is_asked_of_it(row):
    names = ["read_model"] if row is FACTORY else ["read_model", "run_model", "noted_inputs"]
    for name in names:
        wanted, found = getattr(Reader, name), getattr(row.reader, name)
        assert parameters(found) == parameters(wanted)


@pytest.mark.parametrize("row", WRITTEN, ids=lambda row: row.words)
def test_a_writer_has_what_is_asked_of_it(row):
    assert parameters(row.writer.write_model) == parameters(Writer.write_model)


def test_a_row_is_read_or_says_what_to_do_instead():
    assert all(row.reads or row.instead for row in FORMATS)
    suffixes = [row.suffix for row in FORMATS]
    assert len(set(suffixes)) == len(suffixes)


def test_a_toy_format_is_a_row(monkeypatch):
    toy = Format(".toy", "a toy", writes="toy_write", instead="a toy", packages=("no_toy",))
    monkeypatch.setattr(table, "FORMATS", (*FORMATS, toy))
    with pytest.raises(UsageError, match=r"net\.toy is a toy; give a \.pt or "):
        input_format("net.toy")
    with pytest.raises(DependencyError, match="needs no_toy"):
        table.output_format(Path("net.toy"))


def test_words():
    assert table.INPUTS == "a .pt or .pt2 file, or module:factory"
    assert table.OUTPUTS == (
        ".pt (TorchScript), .pt2 (torch.export), .onnx (ONNX) or "
        ".safetensors (weights, to load with the plan)"
    )


ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "how-to" / f"add-a-{what}.md" for what in ("command", "format")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_pages_quote_the_code_as_it_is(page):
    quoted = re.findall(r"```python\n# (\S+)\n(.*?)```", page.read_text(), re.S)
    assert len(quoted) >= 3
    for file, code in quoted:
        assert code.strip("\n") in (ROOT / file).read_text(), f"{page.name} on {file}"
    for name in re.findall(r"`((?:tests|sepify)/[\w/]+(?:\.py)?/?)`", page.read_text()):
        assert (ROOT / name).exists(), name
