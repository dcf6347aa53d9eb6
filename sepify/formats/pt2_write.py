"""A converted network as a `.pt2` file: a torch.export program, open in the batch, checked."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from sepify.capture.exported import OPENNESS, export_module, varied
from sepify.errors import CaptureError, ConversionError
from sepify.formats.agreement import answers_in_eval, first_line, require_same
from sepify.formats.input_note import METADATA_NAME, InputNote
from sepify.graph.modules import buffers_put_back
from sepify.process.lock import one_at_a_time
from sepify.storage.writing import torch_file


def write_model(
    graph_module: fx.GraphModule, path: Path, inputs: tuple[Tensor, ...], note: InputNote
) -> str:
    """Save it with `note` inside; "torch.export, " and what its inputs may be. Raises
    ConversionError, FileError."""
    program, sizes = to_exported(graph_module, inputs)
    save_exported(program, path, note)
    return f"torch.export, {sizes}"


def to_exported(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> tuple[ExportedProgram, str]:
    """`graph_module` in inference mode as an ExportedProgram, and what its inputs may be: "any
    batch and image size", "any batch size", or "this size alone", the first of these that holds on
    inputs of another size.

    Raises ConversionError if torch.export refuses it, or if the result computes something else.
    """
    causes: list[str] = []
    for openness in OPENNESS:
        try:
            program = export_at(graph_module, inputs, openness)
            _require_writable(program)
            return program, sizes_at(openness)
        except (CaptureError, ConversionError) as error:
            causes.append(str(error))
    raise ConversionError(f"cannot be saved with torch.export: {causes[-1]}")


def export_at(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...], openness: str
) -> ExportedProgram:
    """As `to_exported`, with exactly so much open. Raises CaptureError or ConversionError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = export_module(copy.deepcopy(graph_module).eval(), inputs, openness)
        run = program.module()
    with buffers_put_back(run):
        require_same("exported", answers_in_eval(graph_module, inputs), run, inputs)
    other = varied(inputs, openness)
    if other is not None:
        try:
            wanted = answers_in_eval(graph_module, other)
        except Exception as error:  # the network itself is not open in that size
            raise ConversionError(
                f"the network refuses other sizes: {first_line(error)}"
            ) from error
        with buffers_put_back(run):
            require_same("exported", wanted, run, other)
    return program


def _require_writable(program: ExportedProgram) -> None:
    """Raise ConversionError where the file format, unlike the program, lacks an operator: rounded
    quotients of open sizes. Where fewer sizes are open they may be constants."""
    for target in (math.floor, math.ceil):
        if program.graph.find_nodes(op="call_function", target=target):
            raise ConversionError(f"a .pt2 file cannot hold math.{target.__name__} of a size")


def sizes_at(openness: str) -> str:
    """What inputs may be, in words."""
    return "this size alone" if openness == OPENNESS[2] else f"any {openness}"


@one_at_a_time()
def save_exported(program: ExportedProgram, path: Path | str, note: InputNote) -> None:
    """Save a `.pt2` file with what its inputs are noted inside."""
    extra = {METADATA_NAME: note.to_json()}
    with torch_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files=extra)
