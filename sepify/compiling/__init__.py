"""GraphModule -> a TVM module for a CPU. The only folder that imports tvm, and only when called."""

from sepify.compiling.bundle import Bundle, make_bundle
from sepify.compiling.device.boards import Farm, find_farm
from sepify.compiling.model import CompiledMetadata, CompiledModel, load_compiled
from sepify.compiling.pipeline import compile
from sepify.compiling.targets import Target, read_target, targets

__all__ = [
    "Bundle",
    "CompiledMetadata",
    "CompiledModel",
    "Farm",
    "Target",
    "compile",
    "find_farm",
    "load_compiled",
    "make_bundle",
    "read_target",
    "targets",
]
