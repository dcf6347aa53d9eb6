"""A converted network as a file: TorchScript, torch.export, ONNX, or weights beside a plan."""

from sepify.formats.save import SUFFIXES, require_form, save_model
from sepify.formats.torchscript_write import to_torchscript
from sepify.formats.weights import load_weights

__all__ = ["SUFFIXES", "load_weights", "require_form", "save_model", "to_torchscript"]
