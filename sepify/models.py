"""A model as a person names it at a shell: a TorchScript file, or module:factory."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sepify.errors import CaptureError, UsageError
from sepify.storage import load_torchscript


@dataclass(frozen=True)
class LoadedModel:
    """A model in inference mode, one example of its inputs (random, seed 0), its bytes on disk."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    size: int | None  # None where there is no file


def load_model(spec: str, input_shapes: tuple[tuple[int, ...], ...] = ()) -> LoadedModel:
    """Load `spec`; `input_shapes` (batch first) override those noted in the file.

    "package.module:factory" imports the module and calls factory(): this runs its code, so name
    only modules that you trust. Raises FileError, UsageError or CaptureError.
    """
    if _names_a_factory(spec):
        module, noted, size = _call_factory(spec), None, None
    else:
        file = load_torchscript(spec)
        module, noted, size = file.module, file.input_shapes, file.size
    shapes = input_shapes or noted
    if not shapes:
        raise UsageError(
            f"{spec} does not say what shape its input has; give it, for example "
            "--input-shape 1,3,224,224"
        )
    return LoadedModel(module.eval(), random_inputs(shapes), size)


def random_inputs(shapes: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
    """Standard normal float32 tensors of these shapes, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def parse_shape(text: str) -> tuple[int, ...]:
    """ "1,3,224,224" -> (1, 3, 224, 224). Raises UsageError."""
    try:
        shape = tuple(int(extent) for extent in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"input shape {text!r} is not like 1,3,224,224")
    return shape


def _names_a_factory(spec: str) -> bool:
    module, colon, factory = spec.rpartition(":")
    looks_so = bool(colon) and factory.isidentifier() and "/" not in module
    return looks_so and not Path(spec).exists()


def _call_factory(spec: str) -> nn.Module:
    name, _, factory = spec.rpartition(":")
    sys.path.insert(0, "")  # as `python -m` does: modules of the current folder can be named
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"cannot import '{name}' for {spec}: {error}") from error
    finally:
        sys.path.remove("")
    made = getattr(module, factory, None)
    if made is None:
        raise UsageError(f"'{name}' has no '{factory}'")
    try:
        model = made if isinstance(made, nn.Module) else made()
    except Exception as error:
        raise CaptureError(f"{spec}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{spec} gave a {type(model).__name__}, not an nn.Module")
    return model
