"""Front end for nn.Modules that torch.fx alone cannot trace: every Proxy knows its example value.

So `len`, `int`, `bool`, `range` and iteration on shapes resolve as they do for the example, each
with a note and a runtime check, while sizes stay variables in the graph. What follows the contents
of the input stays untraceable; the innermost module that does so is left whole, as a leaf.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn

from sepify.capture.inputs import Inputs
from sepify.capture.symbolic import LayerTracer, Traced, split_arguments, trace_with
from sepify.capture.torchscript.scalars import negated_node
from sepify.capture.torchscript.values import Dependence
from sepify.errors import CaptureError

_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))

# attributes and methods of a tensor that no change of batch or image size alters
_FACTS = {"dtype", "layout", "ndim", "requires_grad", "is_cuda", "is_sparse", "is_quantized"}
_FACT_METHODS = {"dim", "ndimension", "is_floating_point", "is_complex", "element_size"}
_SHAPE_METHODS = {"size", "numel", "nelement", "stride"}
_SELECT_BY_CONTENT = {"nonzero", "masked_select", "unique", "argwhere", "unique_consecutive"}

_VARIADIC = ("zeros", "ones", "empty", "rand", "randn")
_CONSTRUCTORS = (*_VARIADIC, "full", "arange", "linspace")


@dataclass(frozen=True)
class Known:
    """What is known of a node: its value for the example, and what that value depends on."""

    value: Any
    content: Dependence
    extent: Dependence  # of a tensor's shape


class ValueProxy(fx.Proxy):
    """A Proxy that answers Python's questions with the example's value."""

    tracer: ValueTracer

    @property
    def known(self) -> Known:
        """What is known of the node."""
        return self.tracer.known[self.node]

    def __getattr__(self, k: str) -> Any:
        if k.startswith("__") and k.endswith("__"):
            raise AttributeError(k)
        value = self.known.value
        if isinstance(value, Mapping):
            return getattr({key: self._item(key) for key in value}, k)
        found = getattr(value, k)
        if isinstance(value, Tensor) and k in _FACTS:
            return found
        if not callable(found):
            return self.tracer.create_proxy("call_function", getattr, (self, k), {})
        if isinstance(value, Tensor) and k in _FACT_METHODS:
            return found

        def method(*args: Any, **kwargs: Any) -> Any:
            return self.tracer.create_proxy("call_method", k, (self, *args), kwargs)

        return method

    def __iter__(self) -> Iterator[Any]:
        value = self.known.value
        if isinstance(value, Mapping):
            return iter(list(value))
        return (self._item(index) for index in range(len(self)))

    def _item(self, key: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, key), {})

    def __len__(self) -> int:
        if isinstance(self.known.value, Tensor):  # not a tuple, whose length is its structure
            return int(self.tracer.assume(self.size(0)))
        return len(self.known.value)

    def __contains__(self, item: Any) -> bool:
        value = self.known.value
        return item in value if isinstance(value, Mapping) else any(item == i for i in self)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __bool__(self) -> bool:
        return bool(self.tracer.assume(self))

    def __int__(self) -> int:
        return int(self.tracer.assume(self))

    def __float__(self) -> float:
        return float(self.tracer.assume(self))

    def __index__(self) -> int:
        return operator.index(self.tracer.assume(self))

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def keys(self) -> Any:
        """The keys of a dict, which are structure."""
        return list(self.known.value)


class ValueTracer(LayerTracer):
    """Evaluates every node as it records it."""

    def __init__(
        self, fixed: dict[str, Any], extra: int, inputs: Inputs, leaves: frozenset[str]
    ) -> None:
        super().__init__(fixed, extra, constant_shapes=False)
        self.known: dict[fx.Node, Known] = {}
        self.assumptions: list[str] = []
        self._inputs = [x.clone() for x in inputs]
        self._leaves = leaves
        self._evaluating = False

    def proxy(self, node: fx.Node) -> ValueProxy:
        """A proxy of this tracer's kind."""
        return ValueProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """As a leaf counts, too, what could not be traced before."""
        return module_qualified_name in self._leaves or super().is_leaf_module(
            m, module_qualified_name
        )

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter as a proxy, except while a node is evaluated."""
        if self._evaluating:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace, except while a node is evaluated."""
        if self._evaluating:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any | None = None,
        proxy_factory_fn: Callable[[fx.Node], fx.Proxy] | None = None,
    ) -> fx.Proxy:
        """Record a node, evaluate it, and note what its value depends on."""
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr)
        values = fx.node.map_aggregate((args, kwargs), _value)
        value = self._evaluate(kind, target, values[0], values[1])
        used: list[Known] = []
        fx.node.map_aggregate(
            (args, kwargs), lambda a: used.append(a.known) if isinstance(a, ValueProxy) else None
        )
        content, extent = _dependence(kind, target, values[0], used, value)
        self.known[proxy.node] = Known(value, content, extent)
        return proxy

    def assume(self, proxy: ValueProxy) -> Any:
        """The example's value of a number or truth that decides what the graph looks like.

        Raises TraceError if the contents of the input decide it.
        """
        known = proxy.known
        if isinstance(known.value, Tensor) or known.content is Dependence.DATA:
            raise fx.proxy.TraceError("it chooses by the contents of its input")
        if known.content is Dependence.SHAPE:
            where = _user_line()
            self.assumptions.append(
                f"assumed {known.value!r}, as for the example input, in {where}"
            )
            message = (
                f"captured for inputs with {known.value!r} in {where}; capture again for this shape"
            )
            self.graph.call_function(torch._assert, (self._holds(proxy, known.value), message))
        return known.value

    def _holds(self, proxy: ValueProxy, value: Any) -> fx.Node:
        if isinstance(value, bool):
            return proxy.node if value else negated_node(proxy.node)
        return self.graph.call_function(operator.eq, (proxy.node, value))

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        before, self._evaluating = self._evaluating, True
        try:
            with torch.no_grad():
                if kind == "placeholder":
                    supplied = not target.startswith("*") and target not in self.fixed
                    return self._inputs.pop(0) if supplied else None
                if kind == "get_attr":
                    return operator.attrgetter(target)(self.root)
                if kind == "call_function":
                    return target(*args, **kwargs)
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return self.root.get_submodule(target)(*args, **kwargs)
        finally:
            self._evaluating = before


def value_trace(model: nn.Module, inputs: Inputs) -> Traced:
    """Trace `model`, whose modules the graph module then shares, with the values that `inputs`
    give; modules that follow the contents of their input become leaves.

    Raises CaptureError naming the layer and the source line if it is the model's own forward.
    """
    fixed, extra = split_arguments(model, len(inputs))
    leaves: frozenset[str] = frozenset()
    while True:
        tracer = ValueTracer(fixed, extra, inputs, leaves)
        try:
            with _constructors_of_sizes(tracer):
                traced = trace_with(tracer, model)
        except CaptureError:
            if tracer.failed is None or tracer.failed in leaves:
                raise
            leaves |= {tracer.failed}
            continue
        notes = (*traced.notes, *dict.fromkeys(tracer.assumptions), *_whole(model, leaves))
        return Traced(traced.graph_module, traced.ranks, notes)


@contextmanager
def _constructors_of_sizes(tracer: ValueTracer) -> Iterator[None]:
    """`torch.zeros(b, 2, h, w)` of proxies fails before torch.fx hears of it; record it here."""
    with ExitStack() as stack:
        for name in _CONSTRUCTORS:
            original = getattr(torch, name)
            stack.enter_context(patch.object(torch, name, _recorded(tracer, original)))
        yield


def _recorded(tracer: ValueTracer, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def constructor(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(argument, ValueProxy) for argument in args):
            return original(*args, **kwargs)
        sizes = (list(args),) if original.__name__ in _VARIADIC else args
        return tracer.create_proxy("call_function", original, sizes, kwargs)

    return constructor


def _whole(model: nn.Module, leaves: frozenset[str]) -> tuple[str, ...]:
    """What is inside the modules that could not be traced."""
    notes = []
    for name in sorted(leaves):
        convs = sum(isinstance(m, nn.Conv2d) for m in model.get_submodule(name).modules())
        inside = f"; the convolutions inside it ({convs}) stay as they are" if convs else ""
        notes.append(f"layer '{name}' cannot be traced and is left whole{inside}")
    return tuple(notes)


def _dependence(
    kind: str, target: Any, args: Any, used: list[Known], value: Any
) -> tuple[Dependence, Dependence]:
    """What a node's value, and its shape if it is a tensor, depend on."""
    if kind == "placeholder":
        return Dependence.DATA, Dependence.SHAPE
    content = max((known.content for known in used), default=Dependence.FIXED)
    shapes = [k.content if isinstance(k.value, (int, float)) else k.extent for k in used]
    extent = max(shapes, default=Dependence.FIXED)
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if target is getattr:
        name = args[1]
    if name == "shape" or (kind == "call_method" and name in _SHAPE_METHODS):
        return used[0].extent, Dependence.FIXED
    if name == "device" or name in _FACTS or name.startswith("is_"):
        return Dependence.FIXED, Dependence.FIXED
    masks = target is operator.getitem and _holds_mask(args[1])
    if content is Dependence.DATA and (name in _SELECT_BY_CONTENT or masks):
        extent = Dependence.DATA
    return content, extent


def _holds_mask(index: Any) -> bool:
    items = index if isinstance(index, tuple) else (index,)
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in items)


def _value(argument: Any) -> Any:
    return argument.known.value if isinstance(argument, ValueProxy) else argument


def _user_line() -> str:
    """The innermost line of the model's own code that is running."""
    frame = inspect.currentframe()
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            info = inspect.getframeinfo(frame)
            code = info.code_context[0].strip() if info.code_context else ""
            return f"{info.filename}, line {info.lineno}: `{code}`"
        frame = frame.f_back
    return "a place that is not known"
