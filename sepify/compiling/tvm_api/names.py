"""What TVM's objects are called in signatures: it has no type hints of its own."""

from typing import Any

Module = Any  # tvm.IRModule
Expr = Any  # tvm.relax.Expr
Function = Any  # tvm.tirx.PrimFunc
