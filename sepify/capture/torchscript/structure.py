"""Nodes that build, take apart or ask about values without computing: constants, attributes,
lists, tuples, dicts, sizes, dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sepify.capture.torchscript.machine import Handler, Machine
from sepify.capture.torchscript.operators import dtype_index, operator_of
from sepify.capture.torchscript.scalars import CONTAINERS, PLAIN, RANGES
from sepify.capture.torchscript.source import source_line
from sepify.capture.torchscript.values import Traced, concrete
from sepify.errors import CaptureError


def _constant(machine: Machine, node: Any, _: list[Any]) -> tuple[Any, ...]:
    output = node.output()
    if output.type().kind() == "FunctionType":
        return (None,)  # the functions were inlined; nobody calls it
    return (output.toIValue(),)


def _get_attribute(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (machine.attributes.get(values[0], node.s("name")),)


def _set_attribute(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """A buffer is written in place; anything else is known to the rest of the run alone."""
    (owner, new), name = values, node.s("name")
    old = machine.attributes.buffer(owner, name)
    if old is not None and isinstance(new, Traced) and _alike(old.concrete, new.concrete):
        if new is not old:  # `self.count = self.count + 1`; `+=` has written it already
            machine.recorder.copy_into(old, new)
        return ()
    if machine.attributes.set(owner, name, new):
        told = f"what the model stores in its attribute '{name}' is forgotten after each call"
        machine.recorder.notes.append(told)
        return ()
    raise CaptureError(
        f"the model stores a value in itself for its next call, attribute '{name}' "
        f"({source_line(node)}), which a graph cannot; return the value instead, and save again"
    )


def _alike(old: Tensor, new: Any) -> bool:
    """Whether a buffer can take the new value in place."""
    return isinstance(new, Tensor) and old.shape == new.shape and old.dtype == new.dtype


def _list(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (list(values),)


def _tuple(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (tuple(values),)


def _dict(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    keys = [machine.recorder.assume(key, node) for key in values[::2]]
    return (dict(zip(keys, values[1::2], strict=True)),)


def _dict_of(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """`dict()` and `OrderedDict()`, of nothing, of pairs, or of another one."""
    (source,) = values or [[]]
    pairs = source.items() if isinstance(source, dict) else source
    return ({machine.recorder.assume(key, node): item for key, item in pairs},)


def _unpack(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (*values[0],)


def _tuple_slice(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (values[0][node.i("beg") : node.i("end")],)


def _chunk(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    count, dim = node.i("chunks"), node.i("dim")
    return (*machine.recorder.function(torch.chunk, values[0], count, dim),)


def _uninitialized(machine: Machine, node: Any, _: list[Any]) -> tuple[Any, ...]:
    return tuple(None for _ in node.outputs())


def _nothing(machine: Machine, node: Any, _: list[Any]) -> tuple[Any, ...]:
    return ()


def _is(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    same = values[0] is values[1] or (values[0] == values[1] if _plain(values) else False)
    return (same if node.kind() == "aten::__is__" else not same,)


def _plain(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, (bool, int, float, str)) for value in values)


def _size(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    tensor, *rest = values
    tensor = machine.tensor(tensor)
    if rest:
        return (machine.recorder.size(tensor, machine.recorder.assume(rest[0], node)),)
    return ([machine.recorder.size(tensor, dim) for dim in range(tensor.concrete.dim())],)


def _numel(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    tensor = machine.tensor(values[0])
    numel = machine.recorder.function("numel", tensor)
    numel.content = tensor.extent
    return (numel,)


def _fact(question: Callable[[Tensor], Any]) -> Handler:
    """Something about a tensor that no change of batch or image size alters."""

    def handler(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
        return (question(concrete(values[0])),)

    return handler


def _device(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
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


def _device_type(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """Folded, with one note wherever it is asked: what the model decides by it is decided."""
    (device,) = values
    if isinstance(device, Traced):
        kind = device.concrete.type
        machine.recorder.notes.append(f"assumed to run on {kind!r}, as for the example input")
    return (concrete(device).type,)


def _requires_grad(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """As in training with every weight free, which the captured module must allow: what a model
    takes otherwise (the fast path of nn.MultiheadAttention) is an operator without derivative."""
    tensor = concrete(values[0])
    differentiable = tensor.is_floating_point() or tensor.is_complex()
    return (differentiable and not any(values[0] is x for x in machine.recorder.inputs),)


def _number_tensor_len(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    return (machine.recorder.size(machine.tensor(values[0]), 0),)


_KEYED = {  # what follows a container is a key or an index, and then perhaps an item
    *("aten::__getitem__", "aten::_set_item", "aten::Delete", "aten::get", "aten::pop"),
    *("aten::setdefault", "aten::insert", "prim::TupleIndex"),
}


def container(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
    """A list, tuple, dict or string operator; an index that sizes decide is assumed."""
    kind = node.kind()
    function = CONTAINERS[kind]
    if machine.attributes.holds(values[0]) and operator_of(node.schema()).in_place:
        raise CaptureError(
            f"the model changes a list or dict that it keeps in itself ({source_line(node)}), "
            "which a graph cannot; make a new one in forward, and save again"
        )
    if kind in ("aten::sort", "aten::remove"):  # by the values of items
        values[0][:] = machine.known(values[0], node)
        values[1:] = [machine.known(value, node) for value in values[1:]]
    if kind in _KEYED:
        values[1:2] = [machine.recorder.assume(value, node) for value in values[1:2]]
    elif kind in ("aten::slice", "aten::mul"):
        values[1:] = [machine.recorder.assume(value, node) for value in values[1:]]
    result = function(*values)
    return (result,) if node.outputsSize() else ()


def plain(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
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
    "NumberType": (int, float),
    "IntType": int,
    "FloatType": float,
    "BoolType": bool,
    "StringType": str,
    "NoneType": type(None),
    "ListType": list,
    "AnyListType": list,  # isinstance(x, list)
    "TupleType": tuple,
    "AnyTupleType": tuple,
    "DictType": dict,
}


def _isinstance(machine: Machine, node: Any, values: list[Any]) -> tuple[Any, ...]:
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
    "aten::dict": _dict_of,
    "prim::ListUnpack": _unpack,
    "prim::TupleUnpack": _unpack,
    "prim::TupleSlice": _tuple_slice,
    "prim::ConstantChunk": _chunk,
    "prim::isinstance": _isinstance,
    "prim::type": _device_type,
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
    "prim::requires_grad": _requires_grad,
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
