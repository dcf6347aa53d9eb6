"""Front end for nn.Module: torch.fx symbolic tracing, with our idea of what a leaf is."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import Argument
from torch.fx.proxy import ParameterProxy

from sepify.capture.frames import failed_line
from sepify.capture.raising import compiled_when_raised, raise_modules
from sepify.errors import CaptureError, first_line
from sepify.graph.inputs import restored_buffers
from sepify.graph.modes import give_modes, modes_of

_SIMPLE = (torch.Tensor, int, float, bool)
_AS_IT_IS = frozenset({int, float, bool, str, type(None), type(...), torch.dtype, torch.device})


@dataclass(frozen=True)
class Traced:
    """A graph module whose functional calls are modules where they can be, and what was assumed
    for it."""

    graph_module: fx.GraphModule
    notes: tuple[str, ...]
    leaves: frozenset[str] = frozenset()  # layers left whole because they cannot be traced
    soft: bool = False  # whether numbers stayed variables
    answer: Any = None  # what was computed while tracing, if it was
    compared: bool = False  # whether it was found to answer to the example as the model does


@dataclass(frozen=True)
class Arguments:
    """The arguments of a model's forward: those that become inputs of the graph, with their types
    where these are simple ones, and those that stay at their defaults."""

    given: dict[str, type | None]
    fixed: dict[str, Any]


@dataclass(frozen=True)
class _Stored:
    """Where a parameter or buffer was when the trace began."""

    name: str
    registry: Mapping[str, torch.Tensor | None]  # a module's _parameters or _buffers
    leaf: str


class LayerTracer(fx.Tracer):
    """torch.fx's tracer, with some arguments of the root fixed, which also remembers the innermost
    layer that could not be traced."""

    def __init__(self, arguments: Arguments, constant_shapes: bool = True) -> None:
        # the shape of a weight is a fact, not a variable: `if self.weight.shape[1] > 1` is fine
        super().__init__(param_shapes_constant=constant_shapes)
        self.arguments = arguments
        self.failed: str | None = None
        self._stored: dict[int, _Stored] | None = None

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: dict[str, Any] | tuple[Any, ...] | None = None,
    ) -> tuple[Any, list[Any]]:
        """The root's forward, whatever it is wrapped in, and a proxy for each argument that is
        given; the others take their defaults by themselves."""
        # torch.fx's own way reads the names off the innermost function and then patches its code,
        # which fails for a decorated forward; and it leaves a placeholder for each default
        assert isinstance(self.root, nn.Module)
        return self.root.forward, [
            self.create_proxy("placeholder", name, (), {}, type_expr=kind)
            for name, kind in self.arguments.given.items()
        ]

    def create_arg(self, a: Any) -> Argument:
        """As torch.fx's; a dataclass that is a dict too (a model's output) stays a dataclass."""
        kind = type(a)  # most arguments are of a kind that torch.fx comes to last
        if kind in _AS_IT_IS:
            return a  # type: ignore[no-any-return]
        if issubclass(kind, fx.Proxy):
            return a.node  # type: ignore[no-any-return]
        if kind is dict and not a:
            return {}
        if kind is tuple or kind is list:
            return kind(map(self.create_arg, a))  # type: ignore[no-any-return]
        if dataclasses.is_dataclass(a) and isinstance(a, dict) and not isinstance(a, type):
            fields = {f.name: self.create_arg(getattr(a, f.name)) for f in dataclasses.fields(a)}
            return self.create_node("call_function", type(a), (), fields)
        name = self._name_of(a) if isinstance(a, torch.Tensor) else None
        if name is not None:
            return self.create_node("get_attr", name, (), {})
        return super().create_arg(a)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """As torch.fx's: a parameter as a proxy, the same one each time."""
        name = self._name_of(attr_val) if isinstance(attr_val, nn.Parameter) else None
        if name is None:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            factory = partial(ParameterProxy, self, name=name, param=attr_val)
            parameter_proxy_cache[name] = self.create_proxy(
                *("get_attr", name, (), {}),
                proxy_factory_fn=factory if self.param_shapes_constant else None,
            )
        return parameter_proxy_cache[name]

    def _name_of(self, tensor: torch.Tensor) -> str | None:
        """The name of a stored tensor; None if it is not stored, or was not from the start.

        torch.fx's own way walks through the entire model for each use of a tensor.
        """
        if self._stored is None:
            self._stored = {}
            for path, module in self.root.named_modules():
                for registry in (module._parameters, module._buffers):
                    for leaf, value in registry.items():
                        name = f"{path}.{leaf}" if path else leaf
                        self._stored.setdefault(id(value), _Stored(name, registry, leaf))
        stored = self._stored.get(id(tensor))
        if stored is None or stored.registry.get(stored.leaf) is not tensor:  # replaced since
            return None
        return stored.name

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Scripts and all true convolutions are leaves, besides torch.nn's own modules."""
        if isinstance(m, torch.jit.ScriptModule) or is_conv(m):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace into `m`, or call it as a leaf; note the innermost that fails."""
        known = self.submodule_paths or {}
        if m not in known:  # made on the way, such as a slice of a Sequential
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = self.path_of_module(m)
            raise


def is_conv(module: nn.Module) -> bool:
    """Whether `module` is a Conv2d, or a subclass that computes exactly what Conv2d computes."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and type(module)._conv_forward is nn.Conv2d._conv_forward
    )


def symbolic_trace(model: nn.Module, given: int | None = None) -> Traced:
    """Trace `model`, whose modules the graph module then shares.

    `given` is the number of example inputs; arguments after them, and without examples those that
    have a default, are fixed at their defaults (a Proxy is never None, so tracing them as inputs
    would take the wrong branch).

    Raises CaptureError naming the layer, the source line and what to do.
    """
    return trace_with(LayerTracer(split_arguments(model, given)), model)


def split_arguments(model: nn.Module, given: int | None) -> Arguments:
    """The arguments of `model` that become inputs: `given` of them by position, or without examples
    (None) those that have no default."""
    inputs: dict[str, type | None] = {}
    fixed: dict[str, Any] = {}
    left = given or 0
    for parameter in inspect.signature(model.forward).parameters.values():
        kind = parameter.annotation if parameter.annotation in _SIMPLE else None
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            inputs |= {f"{parameter.name}_{index}": kind for index in range(left)}
            left = 0
        elif left or parameter.default is inspect.Parameter.empty:
            inputs[parameter.name] = kind
            left = max(left - 1, 0)
        else:
            fixed[parameter.name] = parameter.default
    return Arguments(inputs, fixed)


def trace_with(tracer: LayerTracer, model: nn.Module) -> Traced:
    """Trace `model` with any tracer; its buffers and training modes are as before afterwards."""
    modes = modes_of(model)
    try:
        # `self.count.add_(1)` runs while it is traced
        with restored_buffers(model), torch.random.fork_rng(devices=[]):
            graph = tracer.trace(model)
            _require_stored(tracer.root, graph)
    except Exception as error:  # the model's own code runs, on values it never expected
        raise CaptureError(_explain(error, tracer.failed)) from error
    _forget_tracer(graph)
    _assign_by_views(graph)
    with compiled_when_raised():
        graph_module = fx.GraphModule(tracer.root, graph, type(model).__name__)
    give_modes(graph_module, modes, model.training)  # containers are new, leaves the model's own
    notes = tuple(
        f"argument '{name}' is fixed at {v!r}" for name, v in tracer.arguments.fixed.items()
    )
    ranks, state = _batchnorm_ranks(graph, model), dict(model.named_buffers())
    raised = raise_modules(graph_module, ("conv", "bn"), ranks, state)
    return Traced(graph_module, (*notes, *raised.notes))


def _require_stored(root: nn.Module, graph: fx.Graph) -> None:
    """Raise TraceError where the model has put a computed value in the place of a tensor that the
    graph gets: what the next call would read."""
    for target in {str(node.target) for node in graph.find_nodes(op="get_attr")}:
        if isinstance(operator.attrgetter(target)(root), fx.Proxy):
            raise fx.proxy.TraceError(f"it computes a new '{target}' for its next call")


def _assign_by_views(graph: fx.Graph) -> None:
    """`self.past[:, 0] = y` as a write into a view: torch.jit.script drops a `__setitem__` that is
    called as a method."""
    for node in graph.find_nodes(op="call_method", target="__setitem__"):
        base, key, value = node.args
        if not isinstance(value, fx.Node) or not _is_basic(key):
            continue
        with graph.inserting_before(node):
            part = graph.call_function(operator.getitem, (base, key))
            graph.call_function(torch.ops.aten.copy_, (part, value))
        graph.erase_node(node)


def _is_basic(key: Any) -> bool:
    """Whether the index selects a view: numbers, slices, None and Ellipsis."""
    items = key if isinstance(key, tuple) else (key,)
    return all(item is None or item is ... or type(item) in (int, slice) for item in items)


def _batchnorm_ranks(graph: fx.Graph, model: nn.Module) -> dict[fx.Node, int]:
    """A subclass with a forward of its own is traced through; its type tells the dimensions."""
    ranks = {}
    kinds = {nn.BatchNorm1d: 3, nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}
    for node in graph.find_nodes(op="call_function", target=nn.functional.batch_norm):
        owners = [
            str(n.target).rpartition(".")[0] for n in node.all_input_nodes if n.op == "get_attr"
        ]
        if owners:
            owner = model.get_submodule(owners[0])
            ranks[node] = next((r for kind, r in kinds.items() if isinstance(owner, kind)), 0)
    return ranks


def _forget_tracer(graph: fx.Graph) -> None:
    """A graph remembers its tracer's class, which its pickle would need, and where the model's code
    is, which torch.fx would give out as the place of its own."""
    graph._tracer_cls = None
    graph._co_fields = {}
    drop_unresolved_annotations(graph)


def drop_unresolved_annotations(graph: fx.Graph) -> None:
    """Under `from __future__ import annotations` a type is a string, which torch.fx writes into
    the graph's code as a name that exists nowhere: it could be neither pickled nor scripted."""
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = None


def _explain(error: Exception, layer: str | None) -> str:
    where = f"layer '{layer}'" if layer else "the model's forward"
    failed = failed_line(error)
    line = f" (at {failed})" if failed else ""
    return (
        f"{where} cannot be traced symbolically{line}: {first_line(error).rstrip('. ')}; "
        "rewrite that line without Python control flow on tensors, or give "
        "torch.jit.script(model) and example inputs"
    )
