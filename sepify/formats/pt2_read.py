"""`.pt2` files of torch.export, with what their inputs are noted inside."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sepify.errors import FileError, first_line
from sepify.faults import read_bytes
from sepify.formats.input_note import METADATA_NAME, InputNote, read_note
from sepify.process.lock import one_at_a_time
from sepify.storage.archives.contents import Contents, open_contents
from sepify.storage.writing import torch_file

if TYPE_CHECKING:
    from torch.export import ExportedProgram


@one_at_a_time()
def save_exported(program: ExportedProgram, path: Path | str, note: InputNote) -> None:
    """Save a `.pt2` file with what its inputs are noted inside."""
    extra = {METADATA_NAME: note.to_json()}
    with torch_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files=extra)


@one_at_a_time()
def load_exported(path: Path | str) -> ExportedProgram:
    """Load a `.pt2` file of `torch.export.save` onto the CPU. The file may come from a stranger:
    torch's own loader, which unpickles, imports and evaluates what it finds, is given an archive
    written anew from what `sepify.storage.archives` has read and allowed.

    Raises FileError, in words for each: no such file, truncated, TorchScript or a pickle instead,
    written by a torch whose schema this one does not read, pickled or native parts, operators,
    names or sizes that are refused.
    """
    # torch.export takes a while to import; its public load() tries older layouts after this one
    from torch.export.pt2_archive._package import load_pt2

    from sepify.storage.archives.program import clean_program

    path = Path(path)
    clean = clean_program(_open(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_pt2(clean).exported_programs["model"]
    except Exception as error:  # whatever the deserialiser meets: keys, attributes, operators
        raise FileError(
            f"torch {torch.__version__} cannot load {path}: {first_line(error)}; "
            "export the model again with this torch"
        ) from error


def noted_inputs(path: Path | str) -> InputNote | None:
    """What sepify noted of the inputs in a `.pt2` file; None in a file from elsewhere."""
    contents = _open(Path(path))
    name = f"extra/{METADATA_NAME}"
    return read_note(contents.read(name)) if name in contents else None


def _open(path: Path) -> Contents:
    return open_contents(path, read_bytes(path), ".pt2 file (torch.export.save)")
