"""Weights once each, and large ones apart from the code: mapped from a file, they cost no time to
load and no copy."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import tvm
from torch import Tensor
from torch.utils.dlpack import from_dlpack
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from sepify.compiling.kernels.elements import FLOAT32
from sepify.compiling.tvm_api.names import Expr, Module

# bytes; a smaller one costs more time in each inference, as one parameter more that TVM checks,
# than it saves once
_LARGE = 1 << 20


def share_constants(module: Module) -> Module:
    """The module with one constant for all that are equal. A layer that a network uses several
    times has been packed for each use, the weights of a recurrent one for each time step."""
    sharer = _Sharer(module)
    shared = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            shared[name] = sharer.visit_expr(function)
    return shared


@mutator
class _Sharer(PyExprMutator):  # type: ignore[misc]
    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self.known: dict[tuple[str, tuple[int, ...], bytes], Expr] = {}

    def visit_generic_const_(self, op: Expr) -> Expr:
        if not isinstance(op.value, tvm.runtime.Tensor):
            return op
        array = op.value.numpy()
        digest = hashlib.sha256(array.tobytes()).digest()
        return self.known.setdefault((str(op.value.dtype), array.shape, digest), op)


def lift_weights(module: Module) -> tuple[Module, list[Tensor]]:
    """The module whose `main` takes its large constants of FLOAT32 as parameters, after the inputs,
    and these constants in that order, not copied."""
    lifter = _Lifter(module)
    main = lifter.visit_expr(module["main"])
    variables = [variable for variable, _ in lifter.lifted]
    lifted = relax.Function(
        [*main.params, *variables], main.body, main.ret_ty, main.is_pure, main.attrs
    )
    module = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    module["main"] = lifted
    return module, [from_dlpack(array) for _, array in lifter.lifted]


@mutator
class _Lifter(PyExprMutator):  # type: ignore[misc]
    """Replaces large constants by variables, one that is used several times by the same."""

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self.lifted: list[tuple[Any, Any]] = []

    def visit_generic_const_(self, op: Expr) -> Expr:
        array = op.value
        if not isinstance(array, tvm.runtime.Tensor) or str(array.dtype) != FLOAT32.name:
            return op
        if FLOAT32.bytes * math.prod(array.shape) < _LARGE:
            return op
        for variable, known in self.lifted:
            if known.same_as(array):
                return variable
        variable = relax.Var(
            f"weight{len(self.lifted)}", relax.TensorType(array.shape, FLOAT32.name)
        )
        self.lifted.append((variable, array))
        return variable
