"""Save a converted network: the form follows from the file's suffix, and is checked first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, fx

from sepify.errors import UsageError
from sepify.formats.input_note import METADATA_NAME, InputNote, note_inputs
from sepify.formats.onnx_write import require_onnx, to_onnx
from sepify.formats.pt2_read import save_exported
from sepify.formats.pt2_write import to_exported
from sepify.formats.torchscript_read import save_torchscript
from sepify.formats.torchscript_write import to_torchscript
from sepify.formats.weights import distinct_tensors
from sepify.process.lock import one_at_a_time
from sepify.storage import save_weights, write_bytes

Inputs = tuple[Tensor, ...]


@one_at_a_time()
def save_model(
    graph_module: fx.GraphModule, path: Path | str, example_inputs: Tensor | Inputs
) -> str:
    """Save a converted network in the form that `path`'s suffix names, whole or not at all, with
    the shapes and types of `example_inputs` (batch first) noted inside.

        .pt           TorchScript, in the mode (training or inference) that the network is in
        .pt2          torch.export, in inference mode, for any batch size
        .onnx         ONNX, in inference mode, for any batch size; checked with onnxruntime
        .safetensors  the weights alone; save the plan too, and read both with `load_weights`

    Each is run beside the network before it is kept, the open ones at a second size as well.
    Returns how it came about, in a few words. Raises UsageError for another suffix,
    ConversionError where the form cannot be made or answers otherwise, DependencyError where ONNX
    is not installed, FileError where the file cannot be written.
    """
    path = Path(path)
    require_form(path)
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    return SUFFIXES[path.suffix](graph_module, path, inputs, note_inputs(inputs))


def require_form(path: Path) -> None:
    """Raise UsageError or DependencyError now if `save_model` would at the end of long work."""
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"{path}: the suffix says what to write: name it something.pt (TorchScript), .pt2 "
            "(torch.export), .onnx, or .safetensors (weights, to load with the plan)"
        )
    if path.suffix == ".onnx":
        require_onnx()


def _save_torchscript(
    graph_module: fx.GraphModule, path: Path, inputs: Inputs, note: InputNote
) -> str:
    scripted, how = to_torchscript(graph_module, inputs)
    save_torchscript(scripted, path, note.shapes, note.dtypes)
    return f"TorchScript, {how}"


def _save_exported(
    graph_module: fx.GraphModule, path: Path, inputs: Inputs, note: InputNote
) -> str:
    program, sizes = to_exported(graph_module, inputs)
    save_exported(program, path, note)
    return f"torch.export, {sizes}"


def _save_onnx(graph_module: fx.GraphModule, path: Path, inputs: Inputs, note: InputNote) -> str:
    written, sizes = to_onnx(graph_module, inputs, {METADATA_NAME: note.to_json()})
    write_bytes(path, written)
    return f"ONNX, {sizes}"


def _save_weights(graph_module: fx.GraphModule, path: Path, inputs: Inputs, note: InputNote) -> str:
    save_weights(distinct_tensors(graph_module), path, {METADATA_NAME: note.to_json()})
    return "weights alone: load them with sepify.load_weights(original, plan, file)"


SUFFIXES: dict[str, Callable[[fx.GraphModule, Path, Inputs, InputNote], str]] = {
    ".pt": _save_torchscript,
    ".pt2": _save_exported,
    ".onnx": _save_onnx,
    ".safetensors": _save_weights,
}
