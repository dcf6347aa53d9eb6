"""`.pt2` files of torch.export, with what their inputs are noted inside."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sepify.errors import FileError, first_line
from sepify.input_note import METADATA_NAME, InputNote, read_note
from sepify.storage.faults import cause, require_file
from sepify.storage.writing import atomic_path

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def save_exported(program: ExportedProgram, path: Path | str, note: InputNote) -> None:
    """Save a `.pt2` file with what its inputs are noted inside."""
    extra = {METADATA_NAME: note.to_json()}
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with temporary.open("wb") as file:
                torch.export.save(program, file, extra_files=extra)
        except RuntimeError as error:  # torch's own writer reports a full disk as RuntimeError
            raise FileError(f"cannot write {path}: {first_line(error)}") from error


def load_exported(path: Path | str) -> ExportedProgram:
    """Load a `.pt2` file of `torch.export.save` onto the CPU.

    torch's own loader unpickles and evaluates parts of such a file. What it would do that to is
    looked at first (`sepify.pt2_archive`), and a file that could run code is refused.

    Raises FileError, in words for each: no such file, truncated, TorchScript or a pickle instead,
    written by a torch whose schema this one does not read, pickled or native parts.
    """
    from sepify.pt2_archive import require_exported  # torch.export takes a while to import

    path = Path(path)
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            require_exported(path, archive)
    except zipfile.BadZipFile as error:
        raise FileError(f"{path} is truncated, or no .pt2 file (torch.export.save)") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {cause(error)}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # from memory: torch warns of a path that does not end in .pt2
            return torch.export.load(io.BytesIO(path.read_bytes()))
    except Exception as error:  # whatever the deserialiser meets: keys, attributes, operators
        raise FileError(
            f"torch {torch.__version__} cannot load {path}: {first_line(error)}; "
            "export the model again with this torch"
        ) from error


def noted_inputs(path: Path | str) -> InputNote | None:
    """What sepify noted of the inputs in a `.pt2` file; None in a file from elsewhere."""
    path = Path(path)
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"/extra/{METADATA_NAME}"):
                    return read_note(archive.read(name))
    except zipfile.BadZipFile as error:
        raise FileError(f"{path} is truncated, or no .pt2 file (torch.export.save)") from error
    return None
