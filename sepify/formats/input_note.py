"""What a saved model, or a person, says of its inputs: shape and type of an example of each.

No torch is imported here: an option that says nothing is refused without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sepify.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VERSION = 1
METADATA_NAME = "sepify.json"  # of the note inside a file

Shape = tuple[int, ...]

_MOST = 2**48  # no extent of a tensor that has room anywhere

# as they are named in files and at the shell
DTYPES = (
    *("float32", "float64", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)


@dataclass(frozen=True)
class InputNote:
    """Shapes, batch first, and types, by name, of one example of each input."""

    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]

    def to_json(self) -> str:
        """As it stands in a file."""
        shapes = [list(shape) for shape in self.shapes]
        return json.dumps(
            {"version": VERSION, "input_shapes": shapes, "input_dtypes": list(self.dtypes)}
        )


@dataclass(frozen=True)
class InputRequest:
    """What a person says of the inputs: shapes, batch first, and names of types, one for all or one
    for each; empty where the file is to say."""

    shapes: tuple[Shape, ...] = ()
    dtypes: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, shapes: Sequence[Sequence[int]], dtypes: Sequence[str]) -> InputRequest:
        """What `asdict` made of a request, after it was JSON."""
        return cls(tuple(tuple(shape) for shape in shapes), tuple(dtypes))


def note_inputs(inputs: Sequence[Tensor]) -> InputNote:
    """The note of these example inputs."""
    return InputNote(
        tuple(tuple(tensor.shape) for tensor in inputs),
        tuple(str(tensor.dtype).removeprefix("torch.") for tensor in inputs),
    )


def read_note(text: str | bytes) -> InputNote | None:
    """The note in `text`; None if there is none, or someone else's under our name. Types are
    float32 in files that sepify 0.1 wrote without them."""
    if not text:
        return None
    try:
        noted = json.loads(text)
        shapes = tuple(tuple(shape) for shape in noted["input_shapes"])
        dtypes = tuple(noted.get("input_dtypes") or ["float32"] * len(shapes))
        fits = len(dtypes) == len(shapes) and all(name in DTYPES for name in dtypes)
    except Exception:  # anything may stand there: deep nesting, numbers of 5,000 digits
        return None
    extents = [extent for shape in shapes for extent in shape]
    if not fits or not all(type(n) is int and 0 < n < _MOST for n in extents):
        return None
    return InputNote(shapes, dtypes)


def parse_dtype(text: str) -> str:
    """ "float16" -> "float16". Raises UsageError naming those that there are."""
    if text not in DTYPES:
        raise UsageError(f"type {text!r} is not known; choose one of {', '.join(DTYPES)}")
    return text


def parse_shape(text: str) -> tuple[int, ...]:
    """ "1,3,224,224" -> (1, 3, 224, 224). Raises UsageError."""
    try:
        shape = tuple(int(extent) for extent in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"input shape {text!r} is not like 1,3,224,224")
    return shape


def torch_dtype(name: str) -> torch.dtype:
    """ "float16" -> torch.float16."""
    import torch

    found: torch.dtype = getattr(torch, name)
    return found
