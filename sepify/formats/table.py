"""Every way in which a model comes in or a network goes out: one row each.

This file imports no torch, so that a help text or a refusal costs nothing; a row names its reader
and its writer, modules of this folder that are imported when a file is read or written.

A reader has `read_model(spec, asked)`, which returns a LoadedModel; one of files has also
`noted_inputs(path)`, for limits before anything is loaded, and `run_model(request)`, which is done
in a child process first. A writer has `write_model(graph_module, path, inputs, note)`, which
returns how it came about in a few words.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sepify.errors import DependencyError, UsageError
from sepify.formats.input_note import InputNote, InputRequest
from sepify.process.user_modules import names_a_function

if TYPE_CHECKING:
    from torch import Tensor, fx

    from sepify.formats.loaded import LoadedModel


class Reader(Protocol):
    """What a module that reads a format has."""

    def read_model(self, spec: str, asked: InputRequest) -> LoadedModel:
        """The model and an example of its inputs."""

    def run_model(self, request: dict[str, Any]) -> None:
        """Load the file and run the model once, in a child process."""

    def noted_inputs(self, path: Path | str) -> InputNote | None:
        """What sepify noted in the file when it wrote it."""


class Writer(Protocol):
    """What a module that writes a format has."""

    def write_model(
        self, graph_module: fx.GraphModule, path: Path, inputs: tuple[Tensor, ...], note: InputNote
    ) -> str:
        """Write and check the file; how it came about, in a few words."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: What its files' names end with; None for what is no file.
        words: Its name in help texts and errors.
        reads: The module of this folder that reads it, None where nothing does.
        writes: The module of this folder that writes it, None where nothing does.
        instead: What is said to a person who gives a file of it as a model that is to be read.
        packages: What must be installed to write it, all in the extra `extra`.
        extra: The name of that extra.
    """

    suffix: str | None
    words: str
    reads: str | None = None
    writes: str | None = None
    instead: str = ""
    packages: tuple[str, ...] = ()
    extra: str = ""

    @property
    def reader(self) -> Reader:
        """The module that reads it."""
        return cast(Reader, import_module(f"sepify.formats.{self.reads}"))

    @property
    def writer(self) -> Writer:
        """The module that writes it."""
        return cast(Writer, import_module(f"sepify.formats.{self.writes}"))

    def check_packages(self) -> None:
        """Raise DependencyError unless everything that it is written and checked with is there."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise DependencyError(
                f"an {self.words} file needs {', '.join(missing)}: "
                f"pip install 'sepify[{self.extra}]'"
            )


TORCHSCRIPT = Format(".pt", "TorchScript", reads="torchscript_read", writes="torchscript_write")
FACTORY = Format(None, "module:factory", reads="factory_read")
FORMATS = (
    TORCHSCRIPT,
    Format(".pt2", "torch.export", reads="pt2_read", writes="pt2_write"),
    Format(
        ".onnx",
        "ONNX",
        writes="onnx_write",
        instead="an ONNX file, which sepify writes but does not read",
        packages=("onnx", "onnxscript", "onnxruntime"),
        extra="onnx",
    ),
    Format(
        ".safetensors",
        "weights, to load with the plan",
        writes="weights",
        instead="weights without a model; sepify.load_weights(original, plan, file) puts them "
        "back in Python",
    ),
    FACTORY,
)


def input_format(spec: str) -> Format:
    """The format of a model as a person names it. A file of an unknown suffix is taken for
    TorchScript, whose reader says what it is instead. Raises UsageError for a format that is only
    written."""
    if names_a_function(spec):
        return FACTORY
    found = _by_suffix(Path(spec)) or TORCHSCRIPT
    if found.reads is None:
        raise UsageError(f"{spec} is {found.instead}; give {INPUTS}")
    return found


def output_format(path: Path) -> Format:
    """The format that the suffix of `path` names. Raises UsageError for any other suffix, and
    DependencyError where it cannot be written: now rather than at the end of long work."""
    found = _by_suffix(path)
    if found is None or found.writes is None:
        raise UsageError(f"{path}: the suffix says what to write: name it something{OUTPUTS}")
    found.check_packages()
    return found


def _by_suffix(path: Path) -> Format | None:
    return next((row for row in FORMATS if row.suffix and row.suffix == path.suffix), None)


def _either(names: list[str]) -> str:
    """["a", "b", "c"] -> "a, b or c"."""
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


_FILES = [row for row in FORMATS if row.suffix and row.reads]

INPUTS = f"a {_either([str(row.suffix) for row in _FILES])} file, or {FACTORY.words}"
INPUTS_IN_WORDS = (
    f"a {_either([f'{row.words} ({row.suffix})' for row in _FILES])} file, or {FACTORY.words} "
    "(which runs that module's code)"
)
OUTPUTS = _either([f"{row.suffix} ({row.words})" for row in FORMATS if row.writes])
