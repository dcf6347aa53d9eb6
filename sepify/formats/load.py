"""A model as a person names it at a shell: a file, or module:factory."""

from __future__ import annotations

from pathlib import Path

from sepify.formats.input_note import InputRequest
from sepify.formats.loaded import LoadedModel
from sepify.formats.table import input_format
from sepify.formats.trial import try_file
from sepify.storage import require_file


def load_model(spec: str, asked: InputRequest | None = None) -> LoadedModel:
    """Load the model that `spec` names, in the way that `sepify.formats.table` has for it.

    A file is loaded and run on its example input in a child process first, under limits
    (`sepify.formats.trial`). "package.module:factory" imports the module and calls factory(): this
    runs its code, so name only modules that you trust.

    Args:
        spec: A `.pt` file (TorchScript), a `.pt2` file (torch.export), or module:factory.
        asked: Shapes and types of the inputs, which override what the file notes; types are
            float32 where neither says.

    Raises:
        FileError: The file cannot be read, or is damaged.
        UsageError: It is of a format that is only written, or nobody says the inputs' shape.
        InputError: There is not enough memory for the inputs.
        CaptureError: The model cannot be run or captured.
    """
    asked = asked or InputRequest()
    kind = input_format(spec)
    if kind.suffix is not None:
        require_file(Path(spec))
        try_file(Path(spec), asked, kind)
    return kind.reader.read_model(spec, asked)
