"""`.pt2` files of torch.export are read, which may come from a stranger."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

# a child process that may write nowhere has to find everything imported
from torch.export.pt2_archive._package import load_pt2

from sepify.capture import capture
from sepify.capture.exported import example_inputs_of, run_program
from sepify.errors import FileError, first_line
from sepify.formats.input_note import METADATA_NAME, InputNote, InputRequest, note_inputs, read_note
from sepify.formats.loaded import LoadedModel, random_inputs, settled_note
from sepify.process.lock import one_at_a_time
from sepify.storage.archives.contents import Contents, open_contents
from sepify.storage.archives.program import clean_program
from sepify.storage.reading import read_bytes

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def read_model(spec: str, asked: InputRequest) -> LoadedModel:
    """The program as a module that behaves as the exported one did. Raises FileError, UsageError,
    InputError, CaptureError."""
    program, inputs = _program_and_inputs(spec, asked)
    module = capture(program, inputs).graph_module.eval()
    return LoadedModel(module, inputs, Path(spec).stat().st_size)


def run_model(request: dict[str, Any]) -> None:
    """Load the program and run it once: "spec", and the "shapes" and "dtypes" that were asked for.
    Raises as `read_model`."""
    asked = InputRequest.from_json(request["shapes"], request["dtypes"])
    run_program(*_program_and_inputs(request["spec"], asked))


def _program_and_inputs(
    spec: str, asked: InputRequest
) -> tuple[ExportedProgram, tuple[Tensor, ...]]:
    program = load_exported(spec)
    examples = example_inputs_of(program)
    noted = noted_inputs(spec) or (note_inputs(examples) if examples else None)
    return program, random_inputs(settled_note(spec, noted, asked))


@one_at_a_time()
def load_exported(path: Path | str) -> ExportedProgram:
    """Load a `.pt2` file of `torch.export.save` onto the CPU. The file may come from a stranger:
    torch's own loader, which unpickles, imports and evaluates what it finds, is given an archive
    written anew from what `sepify.storage.archives` has read and allowed.

    Raises FileError, in words for each: no such file, truncated, TorchScript or a pickle instead,
    written by a torch whose schema this one does not read, pickled or native parts, operators,
    names or sizes that are refused.
    """
    path = Path(path)
    clean = clean_program(_open(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # the public torch.export.load tries older layouts after this one
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
