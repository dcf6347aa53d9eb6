"""TorchScript files are read, which may come from a stranger."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sepify.capture.reference import reference_run
from sepify.errors import FileError, first_line
from sepify.formats.input_note import METADATA_NAME, InputNote, InputRequest, Shape, read_note
from sepify.formats.loaded import LoadedModel, random_inputs, settled_note
from sepify.process.lock import one_at_a_time
from sepify.storage.archives.contents import Contents, open_contents
from sepify.storage.archives.pickles import StoredTensor
from sepify.storage.archives.saved import saved_value
from sepify.storage.archives.script import clean_script, what_instead
from sepify.storage.reading import read_bytes

_NOTE = f"extra/{METADATA_NAME}"


@dataclass(frozen=True)
class ModelFile:
    """A TorchScript model and what sepify noted in it (nothing, in a file from elsewhere)."""

    module: torch.jit.ScriptModule
    path: Path
    note: InputNote | None  # the shapes and types of its inputs
    size: int  # bytes on disk

    @property
    def input_shapes(self) -> tuple[Shape, ...] | None:
        """The shape of one example of each input, batch first, where the file says so."""
        return None if self.note is None else self.note.shapes


def read_model(spec: str, asked: InputRequest) -> LoadedModel:
    """The module in inference mode. Raises FileError, UsageError, InputError."""
    file = load_torchscript(spec)
    inputs = random_inputs(settled_note(spec, file.note, asked))
    return LoadedModel(file.module.eval(), inputs, file.size)


def run_model(request: dict[str, Any]) -> None:
    """Load the module and run it once: "spec", and the "shapes" and "dtypes" that were asked for.
    Raises as `read_model`."""
    asked = InputRequest.from_json(request["shapes"], request["dtypes"])
    loaded = read_model(request["spec"], asked)
    reference_run(loaded.module, loaded.inputs)


def noted_inputs(path: Path | str) -> InputNote | None:
    """What sepify noted of the inputs; None in a file from elsewhere. Raises FileError."""
    contents = _script_contents(Path(path))
    return read_note(contents.read(_NOTE)) if _NOTE in contents else None


@one_at_a_time()
def load_torchscript(path: Path | str) -> ModelFile:
    """Load a TorchScript file onto the CPU. The file may come from a stranger: torch is given an
    archive written anew from what `sepify.storage.archives` has read and allowed.

    Raises FileError, in words for each: no such file, a folder, truncated, a state_dict or another
    torch.save file, an ExportedProgram, not a torch file at all; an operator, a class or a size
    that is refused.
    """
    path = Path(path)
    contents = _script_contents(path)
    note = contents.read(_NOTE) if _NOTE in contents else b""
    clean = clean_script(contents)
    size = contents.size_on_disk
    del contents  # its memory
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(clean, map_location="cpu")
    except Exception as error:  # whatever torch's reader meets
        raise FileError(f"{path} is damaged or truncated: {first_line(error)}") from error
    return ModelFile(module, path, read_note(note), size)


def _script_contents(path: Path) -> Contents:
    """The table of contents of a TorchScript file, told apart from what people mistake for one."""
    content = read_bytes(path)
    if not content:
        raise FileError(f"{path} is empty")
    if content[:4] != b"PK\x03\x04":
        hint = "save one with torch.jit.save(torch.jit.trace(model, example), path)"
        raise FileError(f"{path} is not a TorchScript file; {hint}")
    contents = open_contents(path, content, "TorchScript file")
    told = what_instead(contents)
    if told and "data.pkl" in contents:
        told = _describe_pickle(contents)
    if told:
        raise FileError(f"{path} {told}")
    return contents


def _describe_pickle(contents: Contents) -> str:
    """What a torch.save file holds; nothing in it runs."""
    advice = "TorchScript is needed: torch.jit.save(torch.jit.trace(model, example), path)"
    try:
        value = saved_value(contents)
    except FileError:  # of a class that is not ours, or damaged
        return f"is a pickled Python object, which sepify does not open; {advice}"
    if isinstance(value, dict):
        return f"holds a state_dict or checkpoint ({len(value)} entries), not a model; {advice}"
    kind = "Tensor" if isinstance(value, StoredTensor) else type(value).__name__
    return f"holds a {kind}, not a model; {advice}"
