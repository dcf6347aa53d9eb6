"""One name that holds everything harmful, given everywhere a name can stand."""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from report.samples import VARIANTS, report
from torch import nn
from typer.testing import CliRunner

import sepify
from sepify.cli import console, progress
from sepify.cli.app import app, main
from sepify.errors import SepifyError
from sepify.report.comparison import Comparison
from sepify.report.comparison import as_html as comparison_html
from sepify.report.comparison import as_markdown as comparison_markdown
from sepify.report.html import as_html
from sepify.report.markdown import as_markdown, escape_markdown
from sepify.storage import write_json

RAW = "\x1b[31m\x07\x08\x7f\x9b\u202e\u2066\u2028\u200b\ufeff\r\n"
MARKUP = (
    "[red]x[/red] [link=http://evil.example]y[/link] :warning: </script><script>alert(1)</script> "
    "<img src=x onerror=alert(1)> \"'` | * _ ~ # ](http://evil.example) @someone www.evil.example "
    "javascript:alert(1) {{ 7*7 }} &lt;"
)
EVIL = f"evil{RAW}{MARKUP}"
FORBIDDEN = set(RAW) - set("[31m\n")


def hostile(value: Any) -> Any:
    """`value` with the name in place of every free text in it."""
    if isinstance(value, str):
        return EVIL
    if isinstance(value, dict):
        return {
            hostile(key) if i == 0 else key: hostile(v) for i, (key, v) in enumerate(value.items())
        }
    if isinstance(value, list | tuple):
        return type(value)(hostile(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {"created", "kind", "action", "order", "sha256"}
        given = {
            f.name: hostile(getattr(value, f.name)) for f in fields(value) if f.name not in kept
        }
        return replace(value, **given)
    return value


def require_clean(text: str) -> None:
    assert not FORBIDDEN & set(text), sorted(map(repr, FORBIDDEN & set(text)))


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def unscripted(page: str) -> str:
    """Without the scripts that come with sepify."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def tags(page: str) -> list[str]:
    parser = Page()
    parser.feed(page)
    for tag, attributes in parser.tags:
        assert tag != "img" or (attributes["src"] or "").startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "action", "formaction"):
            assert not re.match(r"\s*(javascript|http)", attributes.get(name) or "")
    return sorted(tag for tag, _ in parser.tags)


@pytest.mark.parametrize("name", ["the report", *VARIANTS])
def test_reports(name: str) -> None:
    given = VARIANTS.get(name) or report()
    evil = hostile(given)
    for text in (str(evil), as_markdown(evil), unscripted(as_html(evil))):
        require_clean(text)
    scripts = as_html(given).count("<script")
    assert as_html(evil).count("<script") == scripts
    assert tags(as_html(evil)).count("script") == scripts
    assert "img" not in tags(as_html(evil)) or "img" in tags(as_html(given))
    markdown = re.sub(r"<pre>.*?</pre>", "", as_markdown(evil), flags=re.S)
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert not re.search(r"(?<!\\)\]\(", markdown)
    assert not re.search(r"://|www\.|@\w", markdown)
    kept = [line for line in as_markdown(given).splitlines() if line.startswith("|")]
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    count = re.compile(r"(?<!\\)\|")
    assert [len(count.findall(row)) for row in rows] == [len(count.findall(row)) for row in kept]


def test_comparisons(capsys: pytest.CaptureFixture[str]) -> None:
    made = hostile(report())
    comparison = Comparison(((EVIL, made), ("b", made)), (EVIL,))
    console.out.print(comparison)
    page = comparison_html(comparison)
    for text in (capsys.readouterr().out, comparison_markdown(comparison), unscripted(page)):
        require_clean(text)
    assert "img" not in tags(page)


def test_markdown_makes_nothing_of_a_name() -> None:
    pytest.importorskip("markdown_it")
    from markdown_it import MarkdownIt

    html = MarkdownIt("gfm-like", {"linkify": False}).render(
        f"| a |\n|---|\n| {escape_markdown(EVIL)} |"
    )
    assert set(re.findall(r"<(\w+)", html)) == {"table", "thead", "tbody", "tr", "th", "td"}


def test_the_console_reads_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    for stream in (console.out, console.err, console.notes):
        stream.print(EVIL, soft_wrap=True)
    console.list_written([Path(EVIL)])
    with warnings.catch_warnings():
        warnings.showwarning = console.show_warning
        warnings.warn(EVIL, UserWarning, stacklevel=1)
        warnings.warn(EVIL, sepify.errors.SepifyWarning, stacklevel=1)
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        console.show_crash(ValueError, error, error.__traceback__)
    said = capsys.readouterr()
    require_clean(said.out + said.err)
    for text in (said.out, said.err):
        assert "[red]x[/red] [link=http://evil.example]y[/link] :warning:" in text
    (line,) = [line for line in said.err.splitlines() if line.startswith("warning:")]
    assert line.count("evil\\x1b") == 1


def test_progress_shows_a_name_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = console._console()
    terminal.file, terminal._force_terminal, terminal.width = io.StringIO(), True, 500
    terminal.is_interactive = True
    monkeypatch.setattr(progress, "notes", terminal)
    with progress.progress_bar() as show:
        show(EVIL, 1, 2)
    shown = terminal.file.getvalue()
    assert "evil\\x1b[31m\\x07" in shown
    assert "[red]x[/red]" in shown
    assert ":warning:" in shown
    require_clean(shown.replace("\x1b[", "").replace("\r", ""))  # what moves the bar
    assert "\x1b[31m\x07" not in shown


class Odd(nn.Module):
    """A network whose layers, and whose class, have that name."""

    def __init__(self) -> None:
        super().__init__()
        name = re.sub(r'[.\n\r"]', "", EVIL)  # what torch.fx cannot take is refused
        self.add_module(name, nn.Conv2d(3, 8, 3))
        self.add_module("two", nn.Conv2d(8, 8, 3))
        self.first = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(getattr(self, self.first)(x))  # type: ignore[no-any-return, operator]


Odd.__name__ = Odd.__qualname__ = EVIL


def odd() -> nn.Module:
    torch.manual_seed(0)
    return Odd().eval()


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        said = done.output + str(done.exception if isinstance(done.exception, SepifyError) else "")
        assert done.exception is None or isinstance(done.exception, SystemExit | SepifyError), said
        require_clean(said)
        return said

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, plan = "test_hostile_names:odd", tmp_path / "plan.json"
    shape = ("--input-shape", "1,3,12,12")
    assert "evil\\x1b" in run("inspect", model, *shape)
    run("inspect", model, *shape, "--json")
    out = tmp_path / f"{EVIL.replace('/', '')[:40]}.pt2"
    said = run("convert", model, "-o", str(out), "--method", "svd", *shape)
    assert "evil\\x1b" in said
    found = list(tmp_path.rglob("*.json"))
    assert found, said
    for path in tmp_path.iterdir():
        if path.suffix in (".html", ".md"):
            require_clean(unscripted(path.read_text()))
    (made,) = (path for path in found if "plan" in path.name)
    document = json.loads(made.read_text())
    for decision in document["convolutions"]:
        decision["reason"] = EVIL
    write_json(plan, document)
    run("diff", str(made), str(plan))
    run("convert", model, "--plan", str(plan), "-o", str(tmp_path / "b.pt2"), *shape)
    reports = [path for path in found if "report" in path.name]
    for path in reports:
        run("report", str(path), str(path))
        run("report", str(path), "-o", str(tmp_path / "again.md"))
    for wrong in (
        ("inspect", EVIL),
        ("inspect", f"{EVIL}.pt"),
        ("diff", EVIL, EVIL),
        ("report", EVIL, EVIL),
        ("convert", model, "-o", f"{tmp_path}/x.{EVIL}"),
        ("convert", model, "-o", f"{tmp_path}/x.pt", "--keep", EVIL, *shape),
        ("compile", model, "--target", EVIL, "-o", str(tmp_path / "b")),
        ("inspect", model, "--input-shape", EVIL),
        ("inspect", model, "--dtype", EVIL),
        (EVIL,),
        ("inspect", f"--{EVIL}"),
    ):
        assert "evil\\x1b" in re.sub(r"[\s│]", "", run(*wrong)), wrong


def test_an_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sepify", "diff", EVIL, EVIL])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    require_clean(said)
    assert said.count("\n") == 1
    assert ":warning:" in said


def test_a_name_that_ends_the_quotes_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    name = f"a\"),open('{mark}','w'),getattr(self,\"b"
    assert "." not in name

    class Quoting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, nn.Conv2d(3, 8, 3))
            self.b = nn.Conv2d(8, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(getattr(self, name)(x))  # type: ignore[no-any-return]

    x = torch.zeros(1, 3, 9, 9)
    model = Quoting().eval()
    for given in (model, torch.jit.trace(model, x)):
        with pytest.raises(sepify.errors.CaptureError, match="cannot be traced"):
            sepify.convert(given, example_inputs=x, solver=sepify.Solver(method="svd"))
    assert not mark.exists()
