"""A converted network as a file: its suffix names the format, which is checked first."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, fx

from sepify.formats.input_note import note_inputs
from sepify.formats.table import output_format
from sepify.process.lock import one_at_a_time


@one_at_a_time()
def save_model(
    graph_module: fx.GraphModule, path: Path | str, example_inputs: Tensor | tuple[Tensor, ...]
) -> str:
    """Save a converted network in the format that `path`'s suffix names, whole or not at all.

        .pt           TorchScript, in the mode (training or inference) that the network is in
        .pt2          torch.export, in inference mode, for any batch size
        .onnx         ONNX, in inference mode, for any batch size; checked with onnxruntime
        .safetensors  the weights alone; save the plan too, and read both with `load_weights`

    Each is run beside the network before it is kept, the open ones at a second size as well.

    Args:
        graph_module: The network, as `convert` or `distill` returned it.
        path: Where to write.
        example_inputs: One example of each input, batch first; the shapes and types are noted
            inside the file.

    Returns:
        How it came about, in a few words.

    Raises:
        UsageError: The suffix is another.
        DependencyError: ONNX is not installed.
        ConversionError: The format cannot be made of this network, or answers otherwise.
        FileError: The file cannot be written.
    """
    path = Path(path)
    kind = output_format(path)
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
    return kind.writer.write_model(graph_module, path, inputs, note_inputs(inputs))
