"""What a command imports before it knows what it has to do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sepify

HEAVY = {"torch", "numpy", "scipy", "tvm", "onnx", "matplotlib", "PIL", "safetensors"}


def imported_by(code: str) -> set[str]:
    """The top-level packages that a new interpreter has after `code`, told on its stderr."""
    told = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)
    names = done.stderr.splitlines()[-1].split()
    assert "sepify" in names, done.stderr
    return set(names)


def command(*arguments: str) -> str:
    return f"sys.argv = {['sepify', *arguments]!r}; from sepify.cli import main; main()"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("convert", "--help"),
        ("compile", "--help"),
        ("device", "count", "--help"),
        ("--version",),
        ("convert", "--no-such-option"),
        ("inspect", "net.pt", "--input-shape", "1,x,3"),
        ("inspect", "net.pt", "--dtype", "float31"),
    ],
)
def test_help_and_wrong_usage_need_no_torch(arguments):
    found = imported_by(command(*arguments))
    assert "sepify.cli.app" in found
    assert not found & HEAVY


def test_the_package_alone_imports_nothing_heavy():
    assert not imported_by("import sepify, sepify.errors") & HEAVY


def test_converting_needs_neither_a_compiler_nor_a_plotting_library():
    found = imported_by("import sepify; sepify.convert")
    assert "torch" in found
    assert not found & {"tvm", "onnx", "matplotlib", "scipy.optimize"}


def test_every_public_name_is_there_and_is_listed():
    assert set(sepify.__all__) <= set(dir(sepify))
    for name in sepify.__all__:
        assert getattr(sepify, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = sepify.no_such_name


def test_type_checkers_are_told_the_same_homes_as_the_interpreter():
    tree = ast.parse(Path(sepify.__file__).read_text())
    told = {}
    for block in (node for node in tree.body if isinstance(node, ast.If)):
        for line in (node for node in block.body if isinstance(node, ast.ImportFrom)):
            for alias in line.names:
                other = "" if alias.asname is None else f":{alias.name}"
                told[alias.asname or alias.name] = f"{line.module}{other}"
    assert told == sepify._HOMES
    assert {*told, "errors"} == set(sepify.__all__)
