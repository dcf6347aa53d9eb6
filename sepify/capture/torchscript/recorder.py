"""Evaluates an operator for the example input and records it in the torch.fx graph."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import has_side_effect

from sepify.capture.torchscript.attributes import Attributes
from sepify.capture.torchscript.moving import to_arguments
from sepify.capture.torchscript.operators import (
    Operator,
    Target,
    arguments_of,
    by_name,
    call_target,
    takes_numbers,
    target_of,
)
from sepify.capture.torchscript.scalars import negated_node
from sepify.capture.torchscript.source import source_line
from sepify.capture.torchscript.values import (
    Dependence,
    Traced,
    concrete,
    content_of,
    extent_of,
    is_known,
    is_number,
    map_leaves,
)
from sepify.errors import CaptureError, first_line

# torch before 2.13 takes a packet for pure, and dead code elimination would drop the write
has_side_effect(torch.ops.aten.copy_)


class Recorder:
    """The graph under construction, and what was assumed while constructing it."""

    def __init__(self, graph: fx.Graph, attributes: Attributes) -> None:
        self.graph = graph
        self.attributes = attributes
        self.notes: list[str] = []
        self.inputs: list[Traced] = []
        self.ranks: dict[fx.Node, int] = {}  # dimensions of every tensor recorded
        self._sharing: dict[int, list[Traced]] = defaultdict(list)  # by storage

    def input(self, name: str, value: Tensor) -> Traced:
        """An input of the model."""
        node = self.graph.placeholder(name)
        self.inputs.append(self._tensor(value, node, Dependence.DATA, Dependence.SHAPE))
        return self.inputs[-1]

    def function(self, target: Target, *args: Any) -> Any:
        """Apply a function of numbers or a tensor's method; recorded unless all is known."""
        result = call_target(target, concrete(args), {})
        if is_known(args):
            return result
        return self._wrap(result, self._node(target, args, {}), content_of(args), extent_of(args))

    def size(self, tensor: Traced, dim: int) -> Any:
        """`tensor.size(dim)`; a plain number if no input of the model decides it."""
        length = tensor.concrete.size(dim)
        if tensor.extent is Dependence.FIXED:
            return length
        return Traced(length, self._node("size", (tensor, dim), {}), tensor.extent)

    def operator(self, op: Operator, values: Sequence[Any], node: Any) -> Any:
        """Apply an aten operator. Raises CaptureError if torch cannot."""
        if op.in_place:
            return self._write(op, values, node)
        return self._call(op, op.name, values, node)

    def assume(self, value: Any, node: Any) -> Any:
        """The example's value of a number that decides what the graph looks like.

        Where sizes decide, the assumption becomes a runtime check and a note. Raises CaptureError,
        with the source line, where the contents of the input do.
        """
        if not isinstance(value, Traced):
            return value
        where = source_line(node)
        known = value.concrete
        if value.content is Dependence.DATA:
            raise CaptureError(
                f"the model chooses by the contents of its input ({where}), which no single graph "
                "can follow; rewrite that line, for example with torch.where, and save again"
            )
        self.notes.append(f"assumed {known!r}, as for the example input, in {where}")
        if value.content is Dependence.SHAPE:
            if isinstance(known, bool):
                holds = value.node if known else negated_node(value.node)
            else:
                holds = self.graph.call_function(operator.eq, (value.node, known))
            message = f"captured for inputs with {known!r} in {where}; capture again for this shape"
            self.graph.call_function(torch._assert, (holds, message))
        return known

    def argument(self, value: Any) -> Any:
        """`value` as an argument of a torch.fx node."""
        return map_leaves(self._leaf, value)

    def _leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            leaf = self.attributes.constant(leaf)
        return leaf.node if isinstance(leaf, Traced) else leaf

    def _node(self, target: Target, args: Any, kwargs: dict[str, Any]) -> fx.Node:
        kind = "call_method" if isinstance(target, str) else "call_function"
        return self.graph.create_node(kind, target, self.argument(args), self.argument(kwargs))

    def _call(self, op: Operator, name: str, values: Sequence[Any], node: Any) -> Any:
        target = target_of(name)
        if target is None:
            raise CaptureError(
                f"TorchScript operator aten::{name} is unknown to torch {torch.__version__} "
                f"({source_line(node)}); save the file again with a newer torch"
            )
        fitted = self._fitted(op, values)
        try:
            if name == "to":
                args, kwargs = to_arguments(by_name(op, fitted))
                if len(args) == 1 and not kwargs:
                    return fitted[0]  # it is that already
            else:
                args, kwargs = arguments_of(op, fitted)
            result = call_target(target, concrete(args), concrete(kwargs))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise CaptureError(
                f"aten::{name} fails on the example input ({source_line(node)}): "
                f"{first_line(error)}"
            ) from error
        recorded = self._node(target, args, kwargs)
        content, extent = content_of(values), extent_of(values)
        if content is Dependence.DATA and _shape_follows_data(op, values):
            extent = Dependence.DATA
        return self._wrap(result, recorded, content, extent)

    def _fitted(self, op: Operator, values: Sequence[Any]) -> list[Any]:
        """Numbers where the operator can take them, 0-d tensors where it cannot.

        Sizes are numbers here but 0-d tensors in a traced file, which also writes the 2.0 of
        `x * 2.0` as a constant tensor.
        """
        fitted = []
        for index, (parameter, value) in enumerate(zip(op.parameters, values, strict=True)):
            tensor_needed = parameter.kind == "Tensor"
            number_will_do = index > 0 and tensor_needed and takes_numbers(op.name)
            if isinstance(value, Tensor) and value.dim() == 0:
                promotes_alike = number_will_do and _category(value) <= _category(values[0])
                if parameter.kind == "number" or promotes_alike:
                    value = value.item()
            elif is_number(value) and tensor_needed and not number_will_do:
                value = self.scalar_tensor(value)
            fitted.append(value)
        return fitted

    def scalar_tensor(self, value: Any) -> Traced:
        """A 0-d tensor of a number: int64, float32 (or the default dtype) or bool."""
        dtype = torch.tensor(concrete(value)).dtype
        result = torch.scalar_tensor(concrete(value), dtype=dtype)
        node = self._node(torch.scalar_tensor, (value,), {"dtype": dtype})
        return self._tensor(result, node, content_of(value), Dependence.FIXED)

    def _write(self, op: Operator, values: Sequence[Any], node: Any) -> Any:
        """An in-place operator. Where nothing else shares the tensor, its result simply becomes
        the value from now on; otherwise it is computed and copied into the tensor."""
        base, *others = values
        if isinstance(base, Tensor):
            base = self.attributes.constant(base)
        if not isinstance(base, Traced) or not isinstance(base.concrete, Tensor):
            raise CaptureError(f"aten::{op.name} writes into a number ({source_line(node)})")
        if op.name in ("copy_", "fill_", "zero_"):
            result = self._source(others[0] if others else 0)
            shared = True
        elif op.functional is not None:
            result = self._call(op, op.functional, [base, *others], node)
            shared = base.node.op == "get_attr" or len(self._sharers(base)) > 1
        else:
            raise CaptureError(
                f"TorchScript operator aten::{op.name} is not supported ({source_line(node)}); "
                "use the operator that returns its result instead of overwriting its input"
            )
        if shared:
            return self.copy_into(base, result)
        result = self._cast(result, base.concrete.dtype)
        self._forget(base)
        self._forget(result)  # which nobody has but `base`: a later write is to `base` alone
        base.concrete, base.node = result.concrete, result.node
        base.content = max(base.content, result.content)
        self._sharers(base).append(base)
        return base

    def _forget(self, traced: Traced) -> None:
        """Forget where a tensor was: other tensors may be allocated there."""
        sharers = self._sharers(traced)
        sharers[:] = [other for other in sharers if other is not traced]

    def copy_into(self, base: Traced, source: Traced) -> Traced:
        """Overwrite `base`, and with it every tensor that shares its memory."""
        self.graph.call_function(torch.ops.aten.copy_, (base.node, source.node))
        base.concrete.copy_(source.concrete)
        for sharer in (base, *self._sharers(base)):
            sharer.content = max(sharer.content, source.content)
        return base

    def _source(self, value: Any) -> Traced:
        if is_number(value):
            return self.scalar_tensor(value)
        if isinstance(value, Tensor) and value.dim() == 0:
            return self._cast(self.scalar_tensor(value.item()), value.dtype)
        return value if isinstance(value, Traced) else self.attributes.constant(value)

    def _cast(self, value: Traced, dtype: torch.dtype) -> Traced:
        cast = value if value.concrete.dtype == dtype else self.function("to", value, dtype)
        assert isinstance(cast, Traced)
        return cast

    def _sharers(self, traced: Traced) -> list[Traced]:
        tensor = traced.concrete
        if tensor.layout is not torch.strided:  # sparse and mkldnn have no storage to share
            return self._sharing[id(traced)]
        return self._sharing[tensor.untyped_storage().data_ptr()]

    def _tensor(
        self, value: Tensor, node: fx.Node, content: Dependence, extent: Dependence
    ) -> Traced:
        traced = Traced(value, node, content, extent)
        self.ranks[node] = value.dim()
        self._sharers(traced).append(traced)
        return traced

    def _wrap(self, result: Any, node: fx.Node, content: Dependence, extent: Dependence) -> Any:
        if isinstance(result, (list, tuple)):
            items = [
                self._wrap(
                    item, self.graph.call_function(operator.getitem, (node, i)), content, extent
                )
                for i, item in enumerate(result)
            ]
            return items if isinstance(result, list) else tuple(items)
        if isinstance(result, Tensor):
            return self._tensor(result, node, content, extent)
        return None if result is None else Traced(result, node, content)


def _shape_follows_data(op: Operator, values: Sequence[Any]) -> bool:
    if torch.Tag.dynamic_output_shape not in op.tags:
        return False
    if op.name != "index":
        return True
    masks = (torch.bool, torch.uint8)  # only these select by content; integers keep their shape
    return any(isinstance(i, Tensor) and i.dtype in masks for i in concrete(values[1]))


def _category(value: Any) -> int:
    """bool, integer, floating point, complex: a number promotes as a 0-d tensor up to its own."""
    dtype = concrete(value).dtype if isinstance(concrete(value), Tensor) else None
    if dtype is None or dtype is torch.bool:
        return 0
    if dtype.is_complex:
        return 3
    return 2 if dtype.is_floating_point else 1
