"""Front end for nn.Module: torch.fx symbolic tracing, with our idea of what a leaf is."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from sepify.capture.copying import drop_unresolved_annotations
from sepify.errors import CaptureError

_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


@dataclass(frozen=True)
class Traced:
    """A graph module, what is known of its nodes, and what was assumed for it."""

    graph_module: fx.GraphModule
    ranks: dict[fx.Node, int]  # dimensions of what functional BatchNorms compute
    notes: tuple[str, ...]


class LayerTracer(fx.Tracer):
    """torch.fx's tracer, with some arguments of the root fixed, which also remembers the innermost
    layer that could not be traced."""

    def __init__(self, fixed: dict[str, Any], extra: int, constant_shapes: bool = True) -> None:
        # the shape of a weight is a fact, not a variable: `if self.weight.shape[1] > 1` is fine
        super().__init__(param_shapes_constant=constant_shapes)
        self.fixed = fixed
        self.extra = extra  # how many inputs go into *args
        self.failed: str | None = None

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,
        concrete_args: dict[str, Any] | tuple[Any, ...] | None = None,
    ) -> tuple[Any, list[Any]]:
        """The root's arguments: proxies, and the fixed ones as they are."""
        # torch.fx's own concrete_args would leave a placeholder and an assertion for each of them,
        # which torch.jit.script refuses
        function, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        for index, argument in enumerate(arguments):
            if not isinstance(argument, fx.Proxy):
                continue
            name = str(argument.node.target)
            if name in self.fixed:
                arguments[index] = self.fixed[name]
            elif name.startswith("*"):
                arguments[index] = self._variadic(name)
            else:
                continue
            self.graph.erase_node(argument.node)
        return function, arguments

    def _variadic(self, name: str) -> Any:
        if name.startswith("**"):
            return {}
        names = [f"{name[1:]}_{index}" for index in range(self.extra)]
        return tuple(self.create_proxy("placeholder", n, (), {}) for n in names)

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
    fixed, extra = split_arguments(model, given)
    return trace_with(LayerTracer(fixed, extra), model)


def trace_with(tracer: LayerTracer, model: nn.Module) -> Traced:
    """Trace `model` with any tracer; its buffers and training modes are as before afterwards."""
    modes = {name: module.training for name, module in model.named_modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            graph = tracer.trace(model)
    except Exception as error:  # the model's own code runs, on values it never expected
        raise CaptureError(_explain(error, tracer.failed)) from error
    finally:
        with torch.no_grad():
            for buffer, before in buffers:  # `self.count.add_(1)` runs while it is traced
                buffer.copy_(before)
    graph_module = fx.GraphModule(tracer.root, _without_tracer(graph), type(model).__name__)
    for name, module in graph_module.named_modules():  # containers are new, leaves the model's own
        module.training = modes.get(name, model.training)
    notes = tuple(f"argument '{name}' is fixed at {v!r}" for name, v in tracer.fixed.items())
    return Traced(graph_module, _batchnorm_ranks(graph_module.graph, model), notes)


def _batchnorm_ranks(graph: fx.Graph, model: nn.Module) -> dict[fx.Node, int]:
    """A subclass with a forward of its own is traced through; its type tells the dimensions."""
    ranks = {}
    kinds = {nn.BatchNorm1d: 3, nn.BatchNorm2d: 4, nn.BatchNorm3d: 5}
    for node in graph.nodes:
        owners = [
            str(n.target).rpartition(".")[0] for n in node.all_input_nodes if n.op == "get_attr"
        ]
        if node.target is nn.functional.batch_norm and owners:
            owner = model.get_submodule(owners[0])
            ranks[node] = next((r for kind, r in kinds.items() if isinstance(owner, kind)), 0)
    return ranks


def _without_tracer(graph: fx.Graph) -> fx.Graph:
    """A graph remembers its tracer's class, which its pickle needs: a copy does not."""
    plain = fx.Graph()
    plain.output(plain.graph_copy(graph, {}))
    drop_unresolved_annotations(plain)
    return plain


def split_arguments(model: nn.Module, given: int | None) -> tuple[dict[str, Any], int]:
    """The arguments that no example is for, at their defaults; and the number of examples that
    are left for *args."""
    fixed: dict[str, Any] = {}
    left, extra = given or 0, 0
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            left, extra = 0, left
        elif left:
            left -= 1
        elif parameter.default is not inspect.Parameter.empty:
            fixed[parameter.name] = parameter.default
    return fixed, extra


def _explain(error: Exception, layer: str | None) -> str:
    where = f"layer '{layer}'" if layer else "the model's forward"
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if not f.filename.startswith(_NOT_THE_USERS) and f.line]
    line = ""
    if users:
        last = users[-1]
        line = f" (at {last.filename}, line {last.lineno}: `{last.line}`)"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"{where} cannot be traced symbolically{line}: {lines[0].rstrip('. ')}; rewrite that line "
        "without Python control flow on tensors, or give torch.jit.script(model) and example inputs"
    )
