"""torch.export of a module, with as many sizes left open as it allows."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes

from sepify.errors import CaptureError, first_line
from sepify.graph.inputs import SEED, Inputs, enlarged

_CONFIG: Any = symbolic_shapes  # whose `patch` torch puts there at run time

OPENNESS = ("batch and image size", "batch size", "nothing")
"""What is left open, in the order in which it is tried."""


def export_module(model: nn.Module, inputs: Inputs, openness: str) -> ExportedProgram:
    """Export `model` (non-strict, whose own state may change) for inputs of any `openness`.

    Only what torch.export finds to be fixed stays so: `rebuild` says what. Raises CaptureError.
    """
    shapes = tuple(_open_dims(x, openness) for x in inputs)
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return torch.export.export(
                model, copy.deepcopy(inputs), dynamic_shapes=_bound(model, shapes), strict=False
            )
    except Exception as error:  # the model's own code runs, on values it never expected
        raise CaptureError(f"torch.export fails: {first_line(error).rstrip('. ')}") from error


def varied(inputs: Inputs, openness: str) -> Inputs | None:
    """Inputs that differ in all sizes that `openness` leaves open; None where none is."""
    if openness == OPENNESS[2] or any(x.dim() == 0 for x in inputs):
        return None
    return enlarged(inputs, images_too=openness == OPENNESS[0])


def _open_dims(tensor: Tensor, openness: str) -> dict[int, Any]:
    """The batch is dimension 0; channels are fixed in images (B, C, H, W) and volumes alone."""
    if openness == OPENNESS[2] or tensor.dim() == 0:
        return {}
    if openness == OPENNESS[1]:
        return {0: Dim.AUTO}
    fixed = 1 if tensor.dim() > 3 else -1
    return {d: Dim.AUTO for d in range(tensor.dim()) if d != fixed}


def _bound(model: nn.Module, shapes: tuple[dict[int, Any], ...]) -> tuple[Any, ...]:
    """`shapes` as torch.export wants them: those of *args in a tuple of their own."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = [parameter.kind for parameter in parameters]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    plain = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:plain], shapes[plain:])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch, and let it take a batch of one for any batch, not for exactly one."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), _CONFIG.patch(backed_size_oblivious=True):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
