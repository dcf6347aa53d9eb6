"""A model that was read, and the example of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from sepify.errors import UsageError
from sepify.formats.input_note import InputNote, InputRequest, Shape, torch_dtype
from sepify.process.memory import require_memory


@dataclass(frozen=True)
class LoadedModel:
    """A model in inference mode, one example of its inputs (random, seed 0), its bytes on disk."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    size: int | None  # None where there is no file


def settled_note(spec: str, noted: InputNote | None, asked: InputRequest) -> InputNote:
    """The shapes and types of the inputs: what is `asked`, else what the file has `noted`, else
    float32. Raises UsageError where nobody says the shapes, or the types do not fit them."""
    shapes = asked.shapes or (noted.shapes if noted else ())
    if not shapes:
        raise UsageError(
            f"{spec} does not say what shape its input has; give it, for example "
            "--input-shape 1,3,224,224"
        )
    dtypes = asked.dtypes or (noted.dtypes if noted else ())
    if noted and not asked.dtypes and len(noted.dtypes) != len(shapes):
        dtypes = noted.dtypes[:1]  # several inputs were asked for: of the kind that was noted
    dtypes = dtypes or ("float32",)
    if len(dtypes) == 1:
        dtypes = dtypes * len(shapes)
    if len(dtypes) != len(shapes):
        raise UsageError(
            f"{len(dtypes)} types for {len(shapes)} inputs: give --dtype once, or once an input"
        )
    return InputNote(shapes, dtypes)


def random_inputs(note: InputNote) -> tuple[Tensor, ...]:
    """Tensors of these shapes and types, the same ones every time: standard normal numbers, or
    for whole numbers and truth values zeros and ones. Raises InputError where there is not enough
    memory for them."""
    generator = torch.Generator().manual_seed(0)
    pairs = list(zip(note.shapes, note.dtypes, strict=True))
    needed = sum(prod(shape) * max(4, torch_dtype(dtype).itemsize) for shape, dtype in pairs)
    require_memory(needed, f"an input of shape {', '.join(map(str, note.shapes))}")

    def tensor(shape: Shape, dtype: torch.dtype) -> Tensor:
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype)
        return torch.randint(0, 2, shape, generator=generator).to(dtype)

    return tuple(tensor(shape, torch_dtype(dtype)) for shape, dtype in pairs)
