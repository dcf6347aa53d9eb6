"""What a network costs to run and to store: multiply-adds, parameters, bytes, layer by layer."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sepify.errors import InputError, first_line
from sepify.formats.torchscript_write import save_torchscript
from sepify.graph.modes import evaluating
from sepify.graph.running import Inputs, as_inputs, shapes_of
from sepify.storage.tensors import save_state


@dataclass(frozen=True)
class LayerCost:
    """One module that computes or stores something of its own. `macs` are for one image, summed
    over its calls; `shape` is its weight's (empty without one), `output` without the batch."""

    name: str
    kind: str
    shape: tuple[int, ...]
    output: tuple[int, ...]
    macs: int
    params: int


@dataclass(frozen=True)
class ModelCost:
    """MACs (multiply-adds; FLOPs = 2 x MACs) for one image, and parameters. What no module of
    `layers` accounts for (functional calls, the inside of TorchScript) is in the totals alone."""

    macs: int
    params: int
    layers: tuple[LayerCost, ...]


def count_macs(model: nn.Module, x: Tensor | Inputs) -> int:
    """Multiply-adds of `model` for one image of the batch `x`; FLOPs are twice that.

    `x` is (B, ...) or several such tensors; on the `meta` device nothing is computed and no memory
    is used (the parameters are taken as meta tensors too). Convolutions, matrix products and
    attention are counted, as in the literature; elementwise work, BatchNorm and pooling are not.
    The model is not changed. Raises InputError where it does not run on `x`.
    """
    return measure_cost(model, x).macs


def measure_cost(model: nn.Module, x: Tensor | Inputs) -> ModelCost:
    """Total and per-layer cost of `model` for one image of the batch `x`, as `count_macs`."""
    inputs = as_inputs(x)
    batch = inputs[0].shape[0]
    counter = FlopCounterMode(display=False)
    own: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    stack = [""]
    counted = 0

    def attribute() -> None:
        nonlocal counted
        total = counter.get_total_flops()
        own[stack[-1]] += total - counted
        counted = total

    def enter(name: str, *_: Any) -> None:
        attribute()
        stack.append(name)

    def leave(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        attribute()
        stack.pop()
        if isinstance(output, Tensor):
            shapes[name] = tuple(output.shape[1:])

    modules = {n: m for n, m in model.named_modules() if not _is_script(m)}
    hooks = []
    try:
        for name, module in modules.items():
            hooks.append(module.register_forward_pre_hook(partial(enter, name)))
            hooks.append(module.register_forward_hook(partial(leave, name)))
        with evaluating(model), _fixed(model), torch.no_grad(), counter:
            _run(model, tuple(tensor.detach() for tensor in inputs))
        attribute()
    finally:
        for hook in hooks:
            hook.remove()
    layers = tuple(
        _layer(name, module, own[name] // (2 * batch), shapes.get(name, ()))
        for name, module in model.named_modules()
        if name and (own[name] or any(True for _ in module.parameters(recurse=False)))
    )
    return ModelCost(counted // (2 * batch), count_params(model), layers)


def count_params(model: nn.Module) -> int:
    """Parameters, a shared one counted once; of a frozen TorchScript model, where they have become
    constants of the graph, the elements of those constants."""
    count = sum(parameter.numel() for parameter in model.parameters())
    if count == 0 and isinstance(model, torch.jit.ScriptModule):
        graph = model.inlined_graph
        tensors = (
            node.t("value")
            for node in graph.findAllNodes("prim::Constant")  # type: ignore[attr-defined]
            if node.hasAttribute("value") and node.kindOf("value") == "t"
        )
        count = sum(tensor.numel() for tensor in tensors)
    return count


def stored_size(model: nn.Module, x: Tensor | Inputs) -> tuple[int, str]:
    """Bytes of the model on disk, and as what: a TorchScript file, or a state_dict where the model
    cannot be traced. The file is temporary."""
    trace: Callable[..., torch.jit.ScriptModule] = torch.jit.trace
    inputs = as_inputs(x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        with warnings.catch_warnings(), evaluating(model), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                script = (
                    model
                    if isinstance(model, torch.jit.ScriptModule)
                    else trace(model, inputs, check_trace=False)
                )
            except Exception:  # tracing runs the user's code
                save_state(model.state_dict(), path)
                return path.stat().st_size, "state_dict file"
        save_torchscript(script, path)
        return path.stat().st_size, "TorchScript file"


def _is_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)  # runs its hooks never: opaque


@contextmanager
def _fixed(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient within the block: under the counter, a view of one that does
    (a class token, expanded to the batch) asks as well, even without gradients, and where a module
    receives it FlopCounterMode looks in vain for the function that made it."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _run(model: nn.Module, inputs: Inputs) -> None:
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    on_meta = all(tensor.is_meta for tensor in inputs)
    try:
        if on_meta and any(not tensor.is_meta for tensor in state.values()):
            shadow = {name: tensor.to("meta") for name, tensor in state.items()}
            torch.func.functional_call(model, shadow, inputs)
        else:
            model(*inputs)
    except Exception as error:  # the network is the user's: it may raise whatever it likes
        cause = first_line(error)
        raise InputError(
            f"the network does not run on inputs of shape {shapes_of(inputs)}: {cause}"
        ) from error


def _layer(name: str, module: nn.Module, macs: int, output: tuple[int, ...]) -> LayerCost:
    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    kind = module.original_name if isinstance(module, torch.jit.ScriptModule) else _kind(module)
    params = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return LayerCost(name, kind, shape, output, macs, params)


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        if module.groups == module.in_channels and module.groups > 1:
            return "depthwise convolution"
        if module.kernel_size == (1, 1):
            return "pointwise convolution"
        return "convolution" if module.groups == 1 else "grouped convolution"
    return type(module).__name__
