"""Any model or TorchScript file -> a GraphModule whose convolutions are nn.Conv2d modules."""

from sepify.capture.capture import Captured, capture

__all__ = ["Captured", "capture"]
