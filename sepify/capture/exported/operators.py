"""What an exported graph calls -> what an ordinary graph module calls.

torch's own functions and methods, which torch.jit.script, pickle and people read, where there are
any for an aten overload; its packet otherwise. Arithmetic on sizes becomes Python's.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx
from torch.fx.node import has_side_effect

from sepify.capture.torchscript.operators import target_of
from sepify.capture.torchscript.scalars import negated_node
from sepify.errors import CaptureError
from sepify.graph.operators import operator_name

# checks that torch.export leaves behind and that are always met: of dtypes, of value ranges
DROPPED = frozenset(
    {
        *("_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"),
        *("_assert_async", "_functional_assert_async"),
    }
)

_METHODS = {"sym_size": "size", "sym_stride": "stride", "sym_numel": "numel"}

_NUMBERS: dict[Any, Any] = {
    torch.sym_int: math.trunc,
    getattr(torch, "_sym_sqrt", math.sqrt): math.sqrt,
}

Call = tuple[str, Any, tuple[Any, ...], dict[str, Any]]
"""Kind, target, args and kwargs of a node."""


def overload_name(target: Any) -> str:
    """`conv2d` for aten.conv2d.default; nothing for what is no aten overload."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return operator_name(target)
    return ""


def require_plain(target: Any) -> None:
    """Raise CaptureError for a higher-order operator: a branch or a loop inside the graph."""
    if isinstance(target, torch._ops.HigherOrderOperator):
        raise CaptureError(
            f"the exported program contains the operator '{target}', a branch, a loop or a region "
            "of its own, which sepify does not rewrite; express it with torch.where or a fixed loop"
        )


def plain_call(graph: fx.Graph, target: Any, args: Any, kwargs: Any) -> Call | fx.Node | None:
    """The call that stands for `target(*args, **kwargs)` of an exported graph, whose arguments are
    nodes of the new one; a node if there is one already; None for a check that is dropped."""
    name = overload_name(target)
    if name in DROPPED:
        return None
    if name == "_assert_scalar":
        return "call_function", torch._assert, args, kwargs
    if name in _METHODS:
        return "call_method", _METHODS[name], args, kwargs
    if target is torch.sym_float:
        return "call_function", operator.mul, (args[0], 1.0), {}
    if target is torch.sym_not:
        return negated_node(args[0])
    if target in _NUMBERS:
        return "call_function", _NUMBERS[target], args, kwargs
    if not isinstance(target, torch._ops.OpOverload):
        return "call_function", target, args, kwargs
    packet = target.overloadpacket
    if name == "to" and kwargs.get("layout") is torch.strided:  # Tensor.to has no such argument
        del kwargs["layout"]
    if target._schema.is_mutable:
        has_side_effect(packet)  # or dead code elimination would drop a write into a view
        return "call_function", packet, args, kwargs
    found = target_of(name) if name else None
    if isinstance(found, str):
        return "call_method", found, args, kwargs
    return "call_function", found or packet, args, kwargs
