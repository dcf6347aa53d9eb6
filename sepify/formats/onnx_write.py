"""A converted network as an ONNX file, through torch.export, checked with onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from sepify.capture.exported import OPENNESS, varied
from sepify.errors import CaptureError, ConversionError
from sepify.formats.agreement import answers_in_eval, first_line, require_same
from sepify.formats.input_note import METADATA_NAME, InputNote
from sepify.formats.pt2_write import export_at, sizes_at
from sepify.formats.translatable import make_translatable
from sepify.storage import write_bytes

LARGEST = 2**31 - 1  # bytes: what protobuf can hold in one file


def write_model(
    graph_module: fx.GraphModule, path: Path, inputs: tuple[Tensor, ...], note: InputNote
) -> str:
    """Save it with `note` among its properties; "ONNX, " and what its inputs may be. Raises
    ConversionError, FileError."""
    written, sizes = to_onnx(graph_module, inputs, {METADATA_NAME: note.to_json()})
    write_bytes(path, written)
    return f"ONNX, {sizes}"


def to_onnx(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...], note: dict[str, str]
) -> tuple[bytes, str]:
    """`graph_module` in inference mode as an ONNX file with `note` among its properties, and what
    its inputs may be, as `to_exported` says.

    Raises ConversionError if the network cannot be exported, or if onnxruntime refuses the file or
    computes something else.
    """
    causes: list[str] = []
    for openness in OPENNESS:  # what onnxruntime gets right may be less than what torch.export does
        try:
            return _written(graph_module, inputs, note, openness), sizes_at(openness)
        except (CaptureError, ConversionError) as error:
            causes.append(str(error))
    raise ConversionError(f"cannot be saved as ONNX: {causes[-1]}")


def _written(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...], note: dict[str, str], openness: str
) -> bytes:
    program = export_at(graph_module, inputs, openness)
    make_translatable(program.graph)
    program.graph_module.recompile()
    with _quiet():
        try:
            exported = torch.onnx.export(program, (), dynamo=True, verbose=False)
        except Exception as error:  # the exporter raises whatever the operator at fault raises
            cause = first_line(error.__cause__ or error)  # the exporter's own words are advice
            raise ConversionError(f"torch.onnx.export fails: {cause}") from error
    assert exported is not None
    exported.model.metadata_props.update(note)
    proto = exported.model_proto
    if proto.ByteSize() > LARGEST:
        raise ConversionError("a file of more than 2 GiB; save it as .pt2")
    written: bytes = proto.SerializeToString()
    run = onnxruntime_session(written)
    require_same("ONNX", answers_in_eval(graph_module, inputs), run, inputs)
    other = varied(inputs, openness)
    if other is not None:
        require_same("ONNX", answers_in_eval(graph_module, other), run, other)
    return written


def onnxruntime_session(model: bytes) -> Callable[..., list[Tensor]]:
    """A function from input tensors to output tensors, on the CPU. Raises ConversionError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings on standard error are for developers
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception types are private
        raise ConversionError(f"onnxruntime refuses the ONNX form: {first_line(error)}") from error
    names = [given.name for given in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
        return [
            torch.as_tensor(x) for x in session.run(None, dict(zip(names, arrays, strict=True)))
        ]

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter writes its progress to standard output and to the log."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    sink: Any = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
