"""Nodes that build, take apart or ask about values without computing: constants, attributes,
lists, tuples, dicts, sizes, dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sepify.capture.torchscript.operators import dtype_index
from sepify.capture.torchscript.scalars import CONTAINERS, PLAIN, RANGES
from sepify.capture.torchscript.source import source_line
from sepify.capture.torchscript.values import Traced, concrete
from sepify.errors import CaptureError

if TYPE_CHECKING:
    from sepify.capture.torchscript.importer import Interpreter

Handler = Callable[["Interpreter", Any, list[Any]], tuple[Any, ...]]
"""Of a node and its input values: the values of its outputs."""


def _constant(machine: Interpreter, node: Any, _: list[Any]) -> tuple[Any, ...]:
    output = node.output()
    if output.type().kind() == "FunctionType":
        return (None,)  # the functions were inlined; nobody calls it
    return (output.toIValue(),)


def _get_attribute(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (machine.attributes.get(values[0], node.s("name")),)


def _set_attribute(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    owner, new = values
    old = machine.attributes.get(owner, node.s("name"))
    if isinstance(old, Traced) and isinstance(new, Traced) and _alike(old.concrete, new.concrete):
        if new is not old:  # `self.count = self.count + 1`; `+=` has written it already
            machine.recorder.copy_into(old, new)
        return ()
    raise CaptureError(
        f"the model stores a value in itself, attribute '{node.s('name')}' ({source_line(node)}), "
        "which a graph cannot; return the value instead, and save again"
    )


def _alike(old: Tensor, new: Any) -> bool:
    """Whether a buffer can take the new value in place."""
    return isinstance(new, Tensor) and old.shape == new.shape and old.dtype == new.dtype


def _list(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (list(values),)


def _tuple(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (tuple(values),)


def _dict(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    keys = [machine.recorder.assume(key, node) for key in values[::2]]
    return (dict(zip(keys, values[1::2], strict=True)),)


def _unpack(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (*values[0],)


def _tuple_slice(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (values[0][node.i("beg") : node.i("end")],)


def _chunk(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    count, dim = node.i("chunks"), node.i("dim")
    return (*machine.recorder.function(torch.chunk, values[0], count, dim),)


def _uninitialized(machine: Interpreter, node: Any, _: list[Any]) -> tuple[Any, ...]:
    return tuple(None for _ in node.outputs())


def _nothing(machine: Interpreter, node: Any, _: list[Any]) -> tuple[Any, ...]:
    return ()


def _is(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    same = values[0] is values[1] or (values[0] == values[1] if _plain(values) else False)
    return (same if node.kind() == "aten::__is__" else not same,)


def _plain(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, (bool, int, float, str)) for value in values)


def _size(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    tensor, *rest = values
    tensor = machine.tensor(tensor)
    if rest:
        return (machine.recorder.size(tensor, machine.recorder.assume(rest[0], node)),)
    return ([machine.recorder.size(tensor, dim) for dim in range(tensor.concrete.dim())],)


def _numel(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    tensor = machine.tensor(values[0])
    numel = machine.recorder.function("numel", tensor)
    numel.content = tensor.extent
    return (numel,)


def _fact(question: Callable[[Tensor], Any]) -> Handler:
    """Something about a tensor that no change of batch or image size alters."""

    def handler(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
        return (question(concrete(values[0])),)

    return handler


def _device(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """Recorded, not folded: the captured module may be moved to another device.

    A weight's is asked of the input, so that the weight has no other user than its layer.
    """
    tensor = machine.tensor(values[0])
    asked = tensor
    if tensor.node.op == "get_attr":
        alike = (x for x in machine.recorder.inputs if x.concrete.device == tensor.concrete.device)
        asked = next(alike, tensor)
    recorded = machine.recorder.graph.call_function(getattr, (asked.node, "device"))
    return (Traced(tensor.concrete.device, recorded, tensor.content.FIXED),)


def _number_tensor_len(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (machine.recorder.size(machine.tensor(values[0]), 0),)


def container(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """A list, tuple, dict or string operator; an index that sizes decide is assumed."""
    kind = node.kind()
    function = CONTAINERS[kind]
    if kind in ("aten::__getitem__", "aten::_set_item", "aten::slice", "prim::TupleIndex"):
        values[1:2] = [machine.recorder.assume(values[1], node)]
    if kind in ("aten::slice", "aten::mul", "aten::get", "aten::pop"):
        values[1:] = [machine.recorder.assume(value, node) for value in values[1:]]
    result = function(*values)
    return (result,) if node.outputsSize() else ()


def plain(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """An operator on known values; text for messages may show sizes, anything else assumes them."""
    if node.kind() == "aten::__contains__" and isinstance(values[0], dict):
        values[0] = list(values[0])
    if node.kind() in ("aten::format", "aten::percentFormat", "aten::str", "aten::warn"):
        known = concrete(values)
    else:
        known = [machine.known(value, node) for value in values]
    result = {**PLAIN, **RANGES}[node.kind()](*known)
    return (result,) if node.outputsSize() else ()


_KINDS: dict[str, type | tuple[type, ...]] = {
    "TensorType": Tensor,
    "IntType": int,
    "FloatType": float,
    "BoolType": bool,
    "StringType": str,
    "NoneType": type(None),
    "ListType": list,
    "TupleType": tuple,
    "DictType": dict,
}


def _isinstance(machine: Interpreter, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """By the kind of container alone: what a Union in a signature is made to tell apart."""
    value = values[0].concrete if isinstance(values[0], Traced) else values[0]
    kinds = [_KINDS.get(kind.kind()) for kind in node.tys("types")]
    if None in kinds:
        raise CaptureError(
            f"the model asks for a type that a graph does not know: {node.tys('types')} "
            f"({source_line(node)}); take that check out, and save again"
        )
    return (any(isinstance(value, kind) for kind in kinds if kind is not None),)


STRUCTURE: dict[str, Handler] = {
    "prim::Constant": _constant,
    "prim::GetAttr": _get_attribute,
    "prim::SetAttr": _set_attribute,
    "prim::ListConstruct": _list,
    "prim::TupleConstruct": _tuple,
    "prim::DictConstruct": _dict,
    "prim::ListUnpack": _unpack,
    "prim::TupleUnpack": _unpack,
    "prim::TupleSlice": _tuple_slice,
    "prim::ConstantChunk": _chunk,
    "prim::isinstance": _isinstance,
    "prim::Uninitialized": _uninitialized,
    "prim::Print": _nothing,
    "aten::__is__": _is,
    "aten::__isnot__": _is,
}

# asked of tensors
QUESTIONS: dict[str, Handler] = {
    "aten::size": _size,
    "prim::shape": _size,
    "aten::numel": _numel,
    "aten::len": _number_tensor_len,
    "aten::dim": _fact(lambda x: x.dim()),
    "prim::dtype": _fact(lambda x: dtype_index(x.dtype)),
    "prim::device": _device,
    "prim::layout": _fact(lambda x: 0),
    "prim::is_cuda": _fact(lambda x: x.is_cuda),
    "prim::is_sparse": _fact(lambda x: x.is_sparse),
    "prim::is_nested": _fact(lambda x: x.is_nested),
    "prim::is_quantized": _fact(lambda x: x.is_quantized),
    "prim::is_meta": _fact(lambda x: x.is_meta),
    "aten::is_floating_point": _fact(lambda x: x.is_floating_point()),
    "aten::is_complex": _fact(lambda x: x.is_complex()),
    "aten::is_contiguous": _fact(lambda x: x.is_contiguous()),
}
