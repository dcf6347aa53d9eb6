"""A model as a person names it at a shell: a .pt or .pt2 file, or module:factory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sepify.errors import CaptureError, FileError, UsageError, first_line
from sepify.faults import require_file, users_code
from sepify.formats.input_note import DTYPES, InputNote, InputRequest, Shape, note_inputs
from sepify.formats.pt2_read import load_exported, noted_inputs
from sepify.formats.torchscript_read import load_torchscript
from sepify.formats.trial import try_file
from sepify.process.memory import require_memory

if TYPE_CHECKING:
    from torch.export import ExportedProgram

WRITTEN_ONLY = {
    ".onnx": "an ONNX file, which sepify writes but does not read",
    ".safetensors": "weights without a model; sepify.load_weights(original, plan, file) puts them "
    "back in Python",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model in inference mode, one example of its inputs (random, seed 0), its bytes on disk."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    size: int | None  # None where there is no file


def load_model(spec: str, asked: InputRequest | None = None) -> LoadedModel:
    """Load `spec`: a `.pt` file (TorchScript), a `.pt2` file (torch.export), or module:factory.

    What is `asked` of the inputs overrides what the file notes; types are float32 where neither
    says. "package.module:factory" imports the module and calls factory(): this runs its code, so
    name only modules that you trust. A file is loaded and run on the inputs in a child process
    first, under limits (`sepify.formats.trial`). Raises FileError, UsageError, InputError or
    CaptureError.
    """
    asked = asked or InputRequest()
    suffix = Path(spec).suffix
    if names_a_function(spec):
        module = _call_factory(spec).eval()
        return LoadedModel(module, random_inputs(_require_note(spec, None, asked)), None)
    if suffix in WRITTEN_ONLY:
        raise UsageError(
            f"{spec} is {WRITTEN_ONLY[suffix]}; give a .pt or .pt2 file, or module:factory"
        )
    require_file(Path(spec))
    if suffix == ".pt2":
        from sepify.capture.exported import run_program  # noqa: F401  so that no child need do it
    try_file(Path(spec), asked, _glimpse(spec))
    if suffix == ".pt2":
        from sepify.capture import capture

        program, inputs, size = _read_exported(spec, asked)
        return LoadedModel(capture(program, inputs).graph_module.eval(), inputs, size)
    return _read_torchscript(spec, asked)


def read_and_run(spec: str, asked: InputRequest) -> None:
    """Load a file and run the model once: what is done first in a child process."""
    from sepify.capture.reference import reference_run

    if Path(spec).suffix == ".pt2":
        from sepify.capture.exported import run_program

        program, inputs, _ = _read_exported(spec, asked)
        run_program(program, inputs)
    else:
        loaded = _read_torchscript(spec, asked)
        reference_run(loaded.module, loaded.inputs)


def _glimpse(spec: str) -> InputNote | None:
    """What the file notes of its inputs, if that can be read: for the limits alone."""
    try:
        return noted_inputs(spec)
    except FileError:
        return None  # reading it in earnest will say why


def _read_torchscript(spec: str, asked: InputRequest) -> LoadedModel:
    file = load_torchscript(spec)
    inputs = random_inputs(_require_note(spec, file.note, asked))
    return LoadedModel(file.module.eval(), inputs, file.size)


def _read_exported(
    spec: str, asked: InputRequest
) -> tuple[ExportedProgram, tuple[Tensor, ...], int]:
    from sepify.capture.exported import example_inputs_of

    program = load_exported(spec)
    examples = example_inputs_of(program)
    noted = noted_inputs(spec) or (note_inputs(examples) if examples else None)
    inputs = random_inputs(_require_note(spec, noted, asked))
    return program, inputs, Path(spec).stat().st_size


def _require_note(spec: str, noted: InputNote | None, asked: InputRequest) -> InputNote:
    shapes = asked.shapes or (noted.shapes if noted else ())
    if not shapes:
        raise UsageError(
            f"{spec} does not say what shape its input has; give it, for example "
            "--input-shape 1,3,224,224"
        )
    dtypes = asked.dtypes or (noted.dtypes if noted else ())
    if noted and not asked.dtypes and len(noted.dtypes) != len(shapes):
        dtypes = noted.dtypes[:1]  # several inputs were asked for: of the kind that was noted
    dtypes = dtypes or ("float32",)
    if len(dtypes) == 1:
        dtypes = dtypes * len(shapes)
    if len(dtypes) != len(shapes):
        raise UsageError(
            f"{len(dtypes)} types for {len(shapes)} inputs: give --dtype once, or once an input"
        )
    return InputNote(shapes, dtypes)


def random_inputs(note: InputNote) -> tuple[Tensor, ...]:
    """Tensors of these shapes and types, the same ones every time: standard normal numbers, or
    for whole numbers and truth values zeros and ones. Raises InputError where there is not enough
    memory for them."""
    generator = torch.Generator().manual_seed(0)
    pairs = list(zip(note.shapes, note.dtypes, strict=True))
    needed = sum(prod(shape) * max(4, DTYPES[dtype].itemsize) for shape, dtype in pairs)
    require_memory(needed, f"an input of shape {', '.join(map(str, note.shapes))}")

    def tensor(shape: Shape, dtype: torch.dtype) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        return torch.randint(0, 2, shape, generator=generator).to(dtype)

    return tuple(tensor(shape, DTYPES[dtype]) for shape, dtype in pairs)


def parse_dtype(text: str) -> str:
    """ "float16" -> "float16". Raises UsageError naming those that there are."""
    if text not in DTYPES:
        raise UsageError(f"type {text!r} is not known; choose one of {', '.join(DTYPES)}")
    return text


def parse_shape(text: str) -> tuple[int, ...]:
    """ "1,3,224,224" -> (1, 3, 224, 224). Raises UsageError."""
    try:
        shape = tuple(int(extent) for extent in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"input shape {text!r} is not like 1,3,224,224")
    return shape


def names_a_function(spec: str) -> bool:
    """Whether `spec` reads as module:name, and is no file of that name."""
    module, colon, name = spec.rpartition(":")
    looks_so = bool(colon) and name.isidentifier() and "/" not in module
    return looks_so and not Path(spec).exists()


def import_named(spec: str) -> Any:
    """What "package.module:name" names; importing runs that module's code. Raises UsageError.

    The module may lie in the current folder and import its neighbours. What is installed goes
    before these: no file that merely lies there stands in for a library.
    """
    place, _, name = spec.rpartition(":")
    try:
        with (
            users_code(f"importing '{place}' for {spec}", UsageError),
            _found_here(place.partition(".")[0]),
        ):
            module = importlib.import_module(place)
    except UsageError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        why = first_line(error.__cause__)
        raise UsageError(f"cannot import '{place}' for {spec}: {why}") from error.__cause__
    with users_code(f"'{name}' of '{place}'", UsageError):  # a module may have a __getattr__
        if not hasattr(module, name):
            raise UsageError(f"'{place}' has no '{name}'")
        return getattr(module, name)


@contextmanager
def _found_here(named: str) -> Iterator[None]:
    """The module `named` is looked for in the current folder first, any other there last."""
    here = str(Path.cwd())
    finder, added = _Finder(named, here), here not in sys.path
    sys.meta_path.insert(0, finder)
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if added and here in sys.path:
            sys.path.remove(here)


@dataclass(frozen=True)
class _Finder(MetaPathFinder):
    named: str
    folder: str

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> ModuleSpec | None:
        """As the import system asks for it."""
        return PathFinder.find_spec(fullname, [self.folder]) if fullname == self.named else None


def _call_factory(spec: str) -> nn.Module:
    made = import_named(spec)
    with users_code(f"{spec}()", CaptureError):
        model = made if isinstance(made, nn.Module) else made()
    if not isinstance(model, nn.Module):
        raise UsageError(f"{spec} gave a {type(model).__name__}, not an nn.Module")
    return model
