"""TorchScript files, with what their inputs are noted inside."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sepify.errors import FileError, first_line
from sepify.input_note import METADATA_NAME, InputNote, Shape, read_note
from sepify.storage.faults import cause, require_file
from sepify.storage.writing import atomic_path


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


def save_torchscript(
    module: torch.jit.ScriptModule,
    path: Path | str,
    input_shapes: Sequence[Shape] | None = None,
    input_dtypes: Sequence[str] | None = None,
) -> None:
    """Save a TorchScript file with what its inputs are noted inside (TorchScript itself does not
    say): shapes, and types by name, float32 where none are given."""
    extra: dict[str, str] = {}
    if input_shapes is not None:
        dtypes = tuple(input_dtypes or ["float32"] * len(input_shapes))
        note = InputNote(tuple(tuple(shape) for shape in input_shapes), dtypes)
        extra[METADATA_NAME] = note.to_json()
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.jit.save(module, str(temporary), _extra_files=extra)
        except RuntimeError as error:  # torch's own writer reports a full disk as RuntimeError
            raise FileError(f"cannot write {path}: {first_line(error)}") from error


def load_torchscript(path: Path | str) -> ModelFile:
    """Load a TorchScript file onto the CPU.

    Raises FileError, in words for each: no such file, a folder, truncated, a state_dict or another
    torch.save file, an ExportedProgram, not a torch file at all.
    """
    path = Path(path)
    require_file(path)
    _require_torchscript(path)
    extra = {METADATA_NAME: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise FileError(f"{path} is damaged or truncated: {first_line(error)}") from error
    return ModelFile(module, path, read_note(extra[METADATA_NAME]), path.stat().st_size)


def _require_torchscript(path: Path) -> None:
    """Tell apart, by the archive's table of contents alone, the files people mistake for it."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise FileError(f"cannot read {path}: {cause(error)}") from error
    if magic != b"PK\x03\x04":
        if not magic:
            raise FileError(f"{path} is empty")
        hint = "save one with torch.jit.save(torch.jit.trace(model, example), path)"
        raise FileError(f"{path} is not a TorchScript file; {hint}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [name.partition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise FileError(f"{path} is truncated: the end of the archive is missing") from error
    if "constants.pkl" in entries:
        return
    if "data.pkl" in entries:
        raise FileError(f"{path} {_describe_pickle(path)}")
    raise FileError(f"{path} is a zip archive but not a TorchScript file")


def _describe_pickle(path: Path) -> str:
    """What a torch.save file holds, read with weights_only so that nothing in it can run."""
    advice = "TorchScript is needed: torch.jit.save(torch.jit.trace(model, example), path)"
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the restricted unpickler refuses or cannot read
        return f"is a pickled Python object, which sepify does not open; {advice}"
    if isinstance(value, dict):
        return f"holds a state_dict or checkpoint ({len(value)} entries), not a model; {advice}"
    return f"holds a {type(value).__name__}, not a model; {advice}"
