"""GraphModule -> a TVM module for a CPU. The only folder that imports tvm, and only when called."""

from sepify.compiling.model import CompiledMetadata, CompiledModel, load_compiled
from sepify.compiling.pipeline import compile
from sepify.compiling.targets import Target, targets

__all__ = [
    "CompiledMetadata",
    "CompiledModel",
    "Target",
    "compile",
    "load_compiled",
    "targets",
]
