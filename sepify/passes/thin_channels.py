"""Thin a network uniformly: the width multiplier, through Torch-Pruning's dependency graph."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.errors import ConversionError, DependencyError
from sepify.graph.following import meets
from sepify.graph.modes import give_modes, modes_of
from sepify.graph.modules import called_module
from sepify.passes.base import Pass, Result

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
NOT_THINNED = "not thinned as asked"  # how a note on that begins
ANSWERING = "its outputs are the network's"
MULTIPLE = 8  # channels: whole vectors on every CPU


def thinned_channels(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to the nearest multiple of 8, halves up; at least 8, and at
    most `channels`: 16 at 0.75 stays 16, 32 at 0.25 is 8, 10 at 0.75 is 8."""
    rounded = MULTIPLE * int(channels * width / MULTIPLE + 0.5)
    return min(channels, max(MULTIPLE, rounded))


@dataclass(frozen=True)
class ThinChannels(Pass):
    """Every layer keeps the share `width` of its channels (Howard et al. 2017, section 3.3).

    Layers that have to agree in their channels (residual additions, depthwise convolutions,
    BatchNorm) are found by Torch-Pruning's dependency graph (Fang et al. 2023) and thinned
    together; the channels with the largest L2 norm over all of them stay, in their order. What the
    inputs and outputs of the network fix is left alone, and so are grouped convolutions, GroupNorm
    and whatever the graph follows wrongly (the network would not run any more).

    Args:
        example_inputs: batch first, (B, C, H, W) for images.
        width: above 0, at most 1.

    Raises:
        DependencyError: Torch-Pruning is not installed.
        ConversionError: it cannot follow the network at all.
    """

    example_inputs: tuple[Tensor, ...] = field(repr=False)
    width: float

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Thin a copy, in the same modes; the sites are the convolutions and linear layers."""
        if importlib.util.find_spec("torch_pruning") is None:
            raise DependencyError("a width needs Torch-Pruning: pip install 'sepify[width]'")
        full: dict[str, str] = {}
        while True:
            attempt = _Attempt(graph_module, self.example_inputs, full)
            wrong = attempt.thin(self.width)
            if not wrong:
                network = attempt.finished()
                changed = _shapes(network) != _shapes(graph_module)
                return Result(network, changed, attempt.left_alone(self.width))
            full.update(dict.fromkeys(wrong, "the network would not run with fewer channels here"))


def thinning_notes(left_alone: Mapping[str, str]) -> list[str]:
    """What has other channels than the width asks for, but for the layers that answer: a line for
    each reason."""
    layers: dict[str, list[str]] = {}
    for name, reason in left_alone.items():
        if reason != ANSWERING:
            layers.setdefault(reason, []).append(name)
    return [f"{NOT_THINNED}: {', '.join(n)}: {why}" for why, n in layers.items()]


def _shapes(graph_module: fx.GraphModule) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in graph_module.named_parameters()}


class _Attempt:
    """A copy that is thinned group by group; a group that breaks it ends the attempt."""

    def __init__(
        self, original: fx.GraphModule, inputs: tuple[Tensor, ...], full: dict[str, str]
    ) -> None:
        import torch_pruning

        self.original, self.inputs, self.full = original, inputs, full
        self.network = copy.deepcopy(original).eval().requires_grad_(True)
        self.names = {module: name for name, module in self.network.named_modules()}
        self.importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        self.graph = torch_pruning.DependencyGraph()
        self.done: set[nn.Module] = set()
        said = StringIO()  # it tries inputs that torch.fx complains of at length
        try:
            with redirect_stderr(said), torch.enable_grad():
                self.graph.build_dependency(
                    self.network, example_inputs=list(inputs), verbose=False
                )
        except Exception as error:  # whatever the network makes of what is tried on it
            raise ConversionError(
                f"Torch-Pruning cannot follow this network, so its width cannot be changed: {error}"
            ) from error
        self.shapes = self._output_shapes()

    def thin(self, width: float) -> list[str]:
        """Thin every group; the layers of the first that breaks the network, or none."""
        fixed = {*_answering(self.network), *(self.network.get_submodule(n) for n in self.full)}
        for root in self._producers():
            group = self._group(root, range(root.weight.shape[0]))
            layers = self._layers(group)
            self.done.update(layers)
            names = [self.names[layer] for layer in layers]
            reason = _why_full(group)
            if reason is not None:
                self.full.update(dict.fromkeys(names, reason))
            if reason is not None or not fixed.isdisjoint(layers):
                continue
            importance = self.importance(group)
            channels = len(importance)
            gone = importance.argsort(stable=True)[: channels - thinned_channels(channels, width)]
            if len(gone) == 0:
                continue
            self._group(root, sorted(gone.tolist())).prune()
            if self._output_shapes() != self.shapes:
                return names
        return []

    def _producers(self) -> Iterator[nn.Conv2d | nn.Linear]:
        """The layers that make channels, in execution order, each group's first alone: a depthwise
        convolution hands them on."""
        for node in self.network.graph.nodes:
            module = called_module(self.network, node)
            known = module in self.graph.module2node and module not in self.done
            if known and isinstance(module, nn.Conv2d | nn.Linear):
                depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels
                if not depthwise or module.in_channels == 1:
                    yield module

    def _group(self, root: nn.Conv2d | nn.Linear, channels: Sequence[int]) -> Any:
        """What has to go with these output channels of `root`."""
        pruner = self.graph.get_pruner_of_module(root)
        return self.graph.get_pruning_group(root, pruner.prune_out_channels, list(channels))

    def finished(self) -> fx.GraphModule:
        """The thinned copy, with modes and gradient flags as they were."""
        flags = {name: p.requires_grad for name, p in self.original.named_parameters()}
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(flags[name])
            parameter.grad = None
        give_modes(self.network, modes_of(self.original), self.original.training)
        self.network.recompile()
        return self.network

    def left_alone(self, width: float) -> dict[str, str]:
        """The layers that did not become as thin as `width` says, and why."""
        answering = set(_answering(self.network))
        found = {}
        for name, module in self.network.named_modules():
            if not isinstance(module, _LAYERS):
                continue
            before = len(self.original.get_parameter(f"{name}.weight"))
            now = len(self.network.get_parameter(f"{name}.weight"))
            if module in answering:
                found[name] = ANSWERING
            elif now != thinned_channels(before, width):
                why = self.full.get(name, "it is tied to channels that have to stay")
                found[name] = f"{now} of {before} channels, {why}"
        return found

    def _layers(self, group: Any) -> list[nn.Module]:
        """The convolutions and linear layers whose outputs a group takes channels from."""
        layers = (
            dep.target.module
            for dep, _ in group
            if self.graph.is_out_channel_pruning_fn(dep.handler)
        )
        return list(dict.fromkeys(m for m in layers if isinstance(m, _LAYERS)))

    def _output_shapes(self) -> list[torch.Size] | None:
        """The shapes of all outputs; None where the network does not run."""
        from torch.utils._pytree import tree_leaves

        try:
            with torch.no_grad():
                output = self.network(*self.inputs)
        except Exception:  # the code of any layer raises what it likes
            return None
        return [leaf.shape for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _why_full(group: Any) -> str | None:
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.GroupNorm):
            return "GroupNorm fixes its channels"
        if isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups < module.in_channels:
            return f"a grouped convolution (groups={module.groups}) fixes its channels"
    return None


def _answering(network: fx.GraphModule) -> Iterable[nn.Module]:
    """The layers whose outputs get to those of the network without meeting other weights."""
    for node in network.graph.nodes:
        module = called_module(network, node)
        if module is not None and "output" in meets(network, node, set()):
            yield module
