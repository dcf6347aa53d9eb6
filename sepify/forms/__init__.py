"""A converted network as a file: TorchScript, torch.export, ONNX, or weights beside a plan."""

from sepify.forms.saving import SUFFIXES, require_form, save_model
from sepify.forms.torchscript import to_torchscript
from sepify.forms.weights import load_weights

__all__ = ["SUFFIXES", "load_weights", "require_form", "save_model", "to_torchscript"]
