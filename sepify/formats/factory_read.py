"""A model that a function of a Python module makes."""

from __future__ import annotations

from torch import nn

from sepify.errors import CaptureError, UsageError
from sepify.faults import users_code
from sepify.formats.input_note import InputRequest
from sepify.formats.loaded import LoadedModel, random_inputs, settled_note
from sepify.process.user_modules import import_named


def read_model(spec: str, asked: InputRequest) -> LoadedModel:
    """The module that "package.module:factory" makes, or is, in inference mode. This runs its code.

    Raises UsageError where there is no such function, or nobody says the shape of the inputs;
    CaptureError where the function fails.
    """
    module = _call_factory(spec).eval()
    return LoadedModel(module, random_inputs(settled_note(spec, None, asked)), None)


def _call_factory(spec: str) -> nn.Module:
    made = import_named(spec)
    with users_code(f"{spec}()", CaptureError):
        model = made if isinstance(made, nn.Module) else made()
    if not isinstance(model, nn.Module):
        raise UsageError(f"{spec} gave a {type(model).__name__}, not an nn.Module")
    return model
