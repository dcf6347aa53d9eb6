"""Every code block of the documentation runs, here or where a list says; links lead somewhere.

A block that nobody runs has to be on that list, with the reason, or the test of this file fails.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distilling.conftest  # noqa: F401  where the zoo's torchvision is: its shim
import numpy as np
import pytest
import torch
import yaml
from distilling.students import pictures, teacher
from markdown_it import MarkdownIt
from nets import Plain, seeded
from PIL import Image

import sepify
from sepify.cli import main
from sepify.demo.data import MODEL_FILE, load_demo_data
from sepify.formats.torchscript_write import save_torchscript
from sepify.plans.file import save_plan

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])

# Commands that are not run here, and who runs them instead.
COMMANDS_ELSEWHERE = {
    "make demo": "CI, before the tests",
    "make test": "it runs this file",
    "sepify demo": "tests/test_demo.py: it takes two minutes",
    "sepify compile better.pt -o bundle --tune 10min": "nobody for ten minutes; tests/compiling",
    "sepify compile small.pt -o bundle --tune 10min": "nobody for ten minutes; tests/compiling",
    "accelerate launch -m sepify distill small.pt --teacher model.pt --data train.npy "
    "-o better.pt": "tests/distilling/test_commands.py, with two processes",
    "sepify compile better.pt -o bundle --target raspberry-pi-4": "tests/device/test_page.py",
    "sepify plan model.pt --calibration images.npy --budget latency=50%@raspberry-pi-4 "
    "--device 192.168.1.20:9090 --secret secret.txt --latency-table pi.json -o plan.json": (
        "tests/planning/test_latency_on_boards.py, with this machine as the board"
    ),
}
# Blocks, by page and first line.
BLOCKS_ELSEWHERE = {
    ("examples.md", "python examples/resnet.py --rank 2 -o report"): "tests/test_examples.py",
    ("architecture.md", "model / file"): "no code: the picture of the house",
    ("how-it-works.md", "(D*D*M + M*N) / (D*D*M*N) = 1/N + 1/(D*D)"): "no code: a formula",
    ("how-it-works.md", "K_m = sum over i of  s_i * u_i * v_i'"): "no code: a formula",
    (
        "mobilenet.md",
        "resolution 160x160 does not fit this network: the linear layer 'classifier.0' takes 25088 "
        "features",
    ): "no code: an error message",
    (
        "add-a-pass.md",
        '"""Fold BatchNorm2d in inference mode into the convolution before it."""',
    ): "compared with the file that it shows, below; tests/passes runs that",
    ("add-a-kernel.md", "Single("): "a row of the page's own kernel, which is no file",
}
LANGUAGES_ELSEWHERE = {
    "computer": "tests/device/test_page.py, with qemu for the board",
    "board": "tests/device/test_page.py, with qemu for the board",
    "{ .py }": "tests/test_examples.py",
}
MARK = re.compile(r"<!-- tested: (\w+) -->")  # of what tests/distilling/test_own_loops.py runs

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::sepify.errors.SepifyWarning"),
]


@pytest.fixture(autouse=True)
def _few_steps_of_refinement(monkeypatch: Any) -> None:
    """Blocks have to run, not to be good: the 400 steps take most of the minutes of this file."""
    made = sepify.Refinement.__init__
    monkeypatch.setattr(made, "__defaults__", (10, *made.__defaults__[1:]))
    assert sepify.Refinement().steps == 10


@dataclass(frozen=True)
class Block:
    """`language` is what follows the fence; an indented block, and a fence without one, has ""."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None

    @property
    def first(self) -> str:
        return self.text.splitlines()[0]

    @property
    def elsewhere(self) -> str | None:
        """Who runs the whole block, if not this file."""
        if self.mark is not None:
            return f"tests/distilling/test_own_loops.py, as {self.mark!r}"
        whole = BLOCKS_ELSEWHERE.get((self.page, self.first))
        return whole or LANGUAGES_ELSEWHERE.get(self.language)

    def lines(self) -> list[str]:
        """Its lines; what ends in a backslash goes on in the next one."""
        return self.text.replace("\\\n", " ").splitlines()

    def commands(self) -> list[str]:
        """Its lines that start as commands of a shell do, without their comments."""
        lines = [line for line in self.lines() if re.match(r"(sepify|make|accelerate) ", line)]
        return [shlex.join(shlex.split(line, comments=True)) for line in lines]


def blocks(path: Path) -> Iterator[Block]:
    mark = None
    for token in MarkdownIt().parse(path.read_text("utf-8")):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            line = token.map[0] + (token.type == "fence")
            yield Block(path.name, line, token.info.strip(), token.content, mark)
            mark = None
        elif token.type == "html_block":
            found = MARK.search(token.content)
            mark = found[1] if found else None


def is_shell(block: Block) -> bool:
    indented = not block.language and len(block.commands()) == len(block.lines())
    return block.language == "sh" or indented


def python_blocks(path: Path) -> list[Block]:
    return [b for b in blocks(path) if b.language == "python" and b.elsewhere is None]


def commands(path: Path) -> list[tuple[int, str]]:
    """Line of the block and the command, of what is run here."""
    found = [(b.line, c) for b in blocks(path) if is_shell(b) for c in b.commands()]
    return [(line, command) for line, command in found if command not in COMMANDS_ELSEWHERE]


def network(channels: int, pixels: int, count: int) -> dict[str, Any]:
    """The names that the pages use for what a reader has: a network and images for it."""
    made = torch.randn(count, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    return {
        "sepify": sepify,
        "model": seeded(Plain(channels)),
        "images": made,
        "x": made[:1],
    }


def readme() -> dict[str, Any]:
    names = network(16, 12, 64)
    images, labels = names["images"], torch.arange(64) % 5
    return {**names, "more_images": images, "test_images": images, "test_labels": labels}


# what the reader of a page has before its first line; the other pages start from nothing
PRELUDES: dict[str, Callable[[], dict[str, Any]]] = {
    "add-a-pass.md": lambda: network(8, 12, 1),
    "README.md": readme,
    "capture.md": lambda: network(8, 12, 1),
    "distillation.md": lambda: {"sepify": sepify, "model": teacher(), "images": pictures(64)},
    "mobilenet.md": lambda: network(16, 224, 16),  # three quarters of 32 channels are three eights
    "planning.md": lambda: network(128, 4, 32),  # 298k parameters dense, 37k separable: 250k fits
}


# They quote code, to which tests/plans/test_forms.py and tests/formats/test_table.py hold them.
QUOTING = ("add-a-form.md", "add-a-format.md", "add-a-command.md")
RUNNING = [page for page in PAGES if python_blocks(page) and page.name not in QUOTING]


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in RUNNING])
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names = PRELUDES.get(page.name, dict)()
    for block in python_blocks(page):
        exec(compile("\n" * block.line + block.text, str(page), "exec"), names)


def demo_files() -> None:
    data = load_demo_data()
    Path("model.pt").write_bytes(MODEL_FILE.read_bytes())
    np.save("images.npy", data.calibration[:32].numpy())
    np.savez("test.npz", images=data.images[:64].numpy(), labels=data.labels[:64].numpy())


def files(channels: int = 16, pixels: int = 12, count: int = 64) -> None:
    """The network and the images of `network`, under every name that the pages use."""
    names = network(channels, pixels, count)
    made = names["images"]
    shape = (1, 3, pixels, pixels)
    save_torchscript(torch.jit.trace(names["model"], made[:1]), "model.pt", [shape])
    for name in ("images.npy", "some.npy", "train.npy"):
        np.save(name, made.numpy())
    np.savez("test.npz", images=made.numpy(), labels=np.arange(count) % 5)
    for number, image in enumerate(made):
        folder = Path("pictures") / "abcde"[number % 5]
        folder.mkdir(parents=True, exist_ok=True)
        shades = (image.sigmoid() * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(shades).save(folder / f"{number}.png")
    small = sepify.convert(
        names["model"], rank=1, example_inputs=made[:1], solver=sepify.Solver(method="svd")
    )
    for name in ("other.plan.json", "other.json"):
        save_plan(small.meta["sepify"].plan, name)


FILES: dict[str, Callable[[], None]] = {
    "index.md": demo_files,
    "mobilenet.md": lambda: files(pixels=224, count=32),
}  # and the other pages' from `files`


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name) for page in PAGES if commands(page)]
)
def test_commands_run_in_order(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    FILES.get(page.name, files)()
    for line, command in commands(page):
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, f"{page.name}, line {line}: {command}"


def test_no_block_is_left_out_without_a_word() -> None:
    every = [block for page in PAGES for block in blocks(page)]
    for block in every:
        run_here = block.language == "python" or is_shell(block)
        assert run_here or block.elsewhere, f"{block.page}, line {block.line}: nobody runs this"
    assert set(BLOCKS_ELSEWHERE) <= {(block.page, block.first) for block in every}
    assert set(LANGUAGES_ELSEWHERE) <= {block.language for block in every}
    assert set(COMMANDS_ELSEWHERE) <= {line for block in every for line in block.commands()}
    loops = (ROOT / "tests" / "distilling" / "test_own_loops.py").read_text("utf-8")
    for mark in {block.mark for block in every} - {None}:
        assert f'example("{mark}")' in loops


def test_the_api_page_names_what_there_is() -> None:
    named = re.findall(r"^::: sepify\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), re.M)
    assert len(named) > 15
    assert set(named) == set(sepify.__all__)


def test_the_navigation_and_links_lead_somewhere() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    entries = [value for entry in site["nav"] for value in entry.values()]
    for section in [value for value in entries if isinstance(value, list)]:
        entries += [value for entry in section for value in entry.values()]
    listed = {value for value in entries if isinstance(value, str)}
    assert listed == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
        for snippet in re.findall(r'--8<-- "(.+)"', page.read_text("utf-8")):
            assert (ROOT / snippet).is_file(), f"{page.name}: {snippet}"


def test_the_pass_that_a_page_shows_is_the_real_one() -> None:
    shown, _ = (b.text for b in blocks(DOCS / "how-to/add-a-pass.md") if b.language == "python")
    assert shown == (ROOT / "sepify" / "passes" / "fold_batchnorm.py").read_text("utf-8")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/how-to/add-a-pass.md"])
def test_the_files_that_contributors_are_sent_to_are_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for name in re.findall(r"[`(]((?:sepify|tests|docs|benchmarks)/[\w/.-]+)[`)]", text):
        assert (ROOT / name).exists(), name
