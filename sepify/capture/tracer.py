"""Front end for nn.Modules that torch.fx alone cannot trace: every Proxy knows its example value.

So `len`, `int`, `bool`, `range` and iteration on shapes resolve as they do for the example, each
with a note and a runtime check, while sizes stay variables in the graph. What follows the contents
of the input stays untraceable; the innermost module that does so is left whole, as a leaf.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.capture.constructors import recorded_constructors
from sepify.capture.frames import running_line
from sepify.capture.known import Known, dependence
from sepify.capture.proxies import EvaluatingTracer, ValueProxy
from sepify.capture.symbolic import Arguments, LayerTracer, Traced, split_arguments, trace_with
from sepify.capture.torchscript.scalars import negated_node
from sepify.capture.torchscript.values import Dependence
from sepify.errors import CaptureError
from sepify.graph.inputs import Inputs

CHECKED = "captured for inputs with "  # how the message of a check begins


class ValueTracer(LayerTracer, EvaluatingTracer):
    """Evaluates every node as it records it."""

    def __init__(self, arguments: Arguments, inputs: Inputs, leaves: frozenset[str]) -> None:
        super().__init__(arguments, constant_shapes=False)
        self.known: dict[fx.Node, Known] = {}
        self.assumptions: list[str] = []
        self._inputs = [x.clone() for x in inputs]
        self.leaves = leaves
        self.untraceable: set[str] = set()  # layers to be leaves next time
        self.answer: Any = None  # the value of the output, where all that is in it has one
        self._evaluating = False

    def proxy(self, node: fx.Node) -> ValueProxy:
        """A proxy of this tracer's kind."""
        return ValueProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """As a leaf counts, too, what could not be traced before."""
        return module_qualified_name in self.leaves or super().is_leaf_module(
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
        """Trace, except while a node is evaluated. A layer that fails is called as a leaf, to find
        all of its kind at once; what it has left in the graph makes this one useless."""
        if self._evaluating:
            return forward(*args, **kwargs)
        depth = len(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            while len(self.module_stack) > depth:  # torch.fx leaves what failed on its stack
                self.module_stack.popitem(last=True)
            path = (self.submodule_paths or {}).get(m)
            # another kind, or what is around it, may fail only for what the first has left behind
            other = any(type(m) is not type(self.root.get_submodule(p)) for p in self.untraceable)
            if path is None or self.failed != path or path in self.leaves or other:
                raise
            self.untraceable.add(path)
            proxy = self.create_proxy("call_module", path, args, kwargs)
            self.failed = None
            return proxy

    def trace(
        self,
        root: nn.Module | Callable[..., Any],
        concrete_args: dict[str, Any] | None = None,
    ) -> fx.Graph:
        """The graph; TraceError if it has to be traced again with `untraceable` as leaves."""
        graph = super().trace(root, concrete_args)
        if self.untraceable:
            raise fx.proxy.TraceError("layers of it cannot be traced")
        output = graph.output_node()
        if all(node in self.known for node in output.all_input_nodes):
            self.answer = fx.node.map_arg(output.args[0], lambda node: self.known[node].value)
        return graph

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
        used: list[Known] = []

        def value_of(argument: Any) -> Any:
            if not isinstance(argument, ValueProxy):
                return argument
            used.append(argument.known)
            return used[-1].value

        values = fx.node.map_aggregate((args, kwargs), value_of)
        value = self._evaluate(kind, target, values[0], values[1])
        content, extent = dependence(kind, target, values[0], used, value)
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
            where = running_line()
            self.assumptions.append(
                f"assumed {known.value!r}, as for the example input, in {where}"
            )
            message = f"{CHECKED}{known.value!r} in {where}; capture again for this shape"
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
                    return self._inputs.pop(0)
                if kind == "get_attr":
                    return operator.attrgetter(target)(self.root)
                if kind == "call_function":
                    return target(*args, **kwargs)
                if kind == "call_method":
                    return getattr(args[0], target)(*args[1:], **kwargs)
                return self.root.get_submodule(target)(*args, **kwargs)
        finally:
            self._evaluating = before


def value_trace(
    model: nn.Module,
    inputs: Inputs,
    leaves: frozenset[str] = frozenset(),
    refuses: Callable[[], bool] = lambda: False,
) -> Traced:
    """Trace `model`, whose modules the graph module then shares, with the values that `inputs`
    give; modules that follow the contents of their input become leaves, as `leaves` are already,
    unless the model itself `refuses` these inputs, which is asked when a trace has failed.

    Raises CaptureError naming the layer and the source line if it is the model's own forward.
    """
    arguments = split_arguments(model, len(inputs))
    while True:
        tracer = ValueTracer(arguments, inputs, leaves)
        try:
            with recorded_constructors(tracer):
                traced = trace_with(tracer, model)
        except CaptureError:
            if not tracer.untraceable or refuses():
                raise
            leaves |= tracer.untraceable
            continue
        finally:
            tracer.known.clear()  # every value in the model, which the tracer's cycles would keep
        notes = (*traced.notes, *dict.fromkeys(tracer.assumptions), *_whole(model, leaves))
        return Traced(traced.graph_module, notes, leaves, answer=tracer.answer)


def _whole(model: nn.Module, leaves: frozenset[str]) -> tuple[str, ...]:
    """What is inside the modules that could not be traced."""
    notes = []
    for name in sorted(leaves):
        convs = sum(isinstance(m, nn.Conv2d) for m in model.get_submodule(name).modules())
        inside = (
            f"; of the convolutions inside it ({convs}) only the weights are seen" if convs else ""
        )
        notes.append(f"layer '{name}' cannot be traced and is left whole{inside}")
    return tuple(notes)
