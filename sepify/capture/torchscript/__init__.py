"""Front end for TorchScript: traced or scripted, frozen or not -> a plain torch.fx.GraphModule.

The graph is evaluated once on the example input, a node at a time (importer.py). What depends on
the input is recorded in a torch.fx graph; everything else is folded; branches are taken and loops
unrolled as the example does, with a runtime check where a shape decided.
"""

from sepify.capture.torchscript.allowed import require_operators
from sepify.capture.torchscript.importer import Imported, import_torchscript

__all__ = ["Imported", "import_torchscript", "require_operators"]
