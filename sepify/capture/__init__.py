"""Any model or TorchScript file -> a GraphModule whose convolutions are nn.Conv2d modules."""

from sepify.capture.capture import Model, capture
from sepify.capture.captured import Captured

__all__ = ["Captured", "Model", "capture"]
