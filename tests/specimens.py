"""Networks that keep, share, compute or write something odd; each is legal torch."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from nets import Plain, Residual, seeded
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, parametrize, prune

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def block(channels: int = 8, first: int = 3) -> nn.Sequential:
    """Two convolutions with something to separate."""
    return nn.Sequential(
        nn.Conv2d(first, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
    )


class Symmetric(nn.Module):
    """Any weight -> one that is its own mirror image; has a right inverse."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class Scaled(nn.Module):
    """Has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(1.5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.by


class Longer(nn.Module):
    """Changes the shape: for unsafe=True."""

    def forward(self, bias: Tensor) -> Tensor:
        return bias.repeat_interleave(2)


def old(kind: str) -> nn.Module:
    model = block()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        getattr(nn.utils, kind)(model[0])
    return model


def parametrized(register: Callable[[nn.Module], object], at: int = 0) -> nn.Module:
    model = block()
    register(model[at])
    return model


def stacked(layer: nn.Module) -> None:
    for made in (Symmetric(), Scaled()):
        parametrize.register_parametrization(layer, "weight", made)
    parametrize.register_parametrization(layer, "bias", Scaled())


def siblings() -> nn.Module:
    """Layers that share one parametrized class, made by copying the first."""
    layer = parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1))
    return nn.Sequential(layer, nn.ReLU(), copy.deepcopy(layer), copy.deepcopy(layer))


def tied_below() -> nn.Module:
    """A parametrized weight whose original another layer uses as it is."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    model[1].weight = model[0].weight
    parametrize.register_parametrization(model[0], "weight", Scaled())
    return model


class Whole(nn.Module):
    """The model itself has a parametrized parameter, and a parametrized buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gain = block(), nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("offset", torch.ones(8, 1, 1))
        parametrize.register_parametrization(self, "gain", Scaled())
        parametrize.register_parametrization(self, "offset", Symmetric())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.gain + self.offset


class Unsafe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.offset = block(), nn.Parameter(torch.ones(4))
        parametrize.register_parametrization(self, "offset", Longer(), unsafe=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.offset[:, None, None]


def pruned() -> nn.Module:
    model = block()
    prune.l1_unstructured(model[0], "weight", 0.4)
    prune.random_unstructured(model[3], "bias", 0.5)
    prune.ln_structured(model[3], "weight", 0.5, n=2, dim=0)
    return model


class Hooked(nn.Module):
    """Hooks that write to the model by `self`, by a closure, by a default, and to a list."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.seen, self.last = block(), [], None
        self.counts: dict[str, int] = {}
        self.body[0].register_forward_hook(self.note)
        times = 0

        def write(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            nonlocal times
            times += 1
            self.last = output

        def count(_module: nn.Module, _inputs: Any, counts: dict[str, int] = self.counts) -> None:
            counts["pre"] = counts.get("pre", 0) + 1

        self.body[1].register_forward_hook(write)
        self.body[1].register_forward_pre_hook(count)
        self.body[2].register_forward_hook(lambda *_: self.seen.append(1), always_call=True)
        self.body[3].register_forward_hook(lambda m, a, k, y: None, with_kwargs=True)
        self.body[3].register_full_backward_hook(lambda *_: None)
        self.register_state_dict_post_hook(lambda *_: None)

    def note(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.seen.append(output.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def patched() -> nn.Module:
    """Its forward stands in the instance, and calls the one before."""
    model = block()
    inner = model[0].forward
    model[0].forward = lambda x: inner(x) * 2.0
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1))
    model[2].weight = model[0].weight
    return nn.Sequential(*model, model[0])


class Views(nn.Module):
    """Weights and buffers that are views of one storage, one of them not saved."""

    def __init__(self) -> None:
        super().__init__()
        whole = torch.randn(2 * 8 * 3 * 9)
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.a.weight = nn.Parameter(whole[:216].view(8, 3, 3, 3))
        self.b.weight = nn.Parameter(whole[216:].view(8, 3, 3, 3))
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[:8], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x) + self.part[:, None, None]


def half_trained() -> nn.Module:
    """In the middle of a training: gradients, frozen parts, modes of its own."""
    model = Plain()
    model(X).square().mean().backward()
    model.train()
    model.bn1.eval()
    model.conv1.requires_grad_(False)
    return model


class Remembers(nn.Module):
    """Makes something at the first call, keeps the last map, counts in its class."""

    calls, log = 0, []

    def __init__(self) -> None:
        super().__init__()
        self.body, self.grid, self.last, self.count = block(), None, {}, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None or self.grid.shape[-2:] != x.shape[-2:]:
            self.grid = torch.ones(x.shape[-2:])
        self.count += 1
        type(self).calls += 1
        self.log.append(1)
        y = self.body(x)
        self.last["map"] = x.shape
        return y * self.grid


class Noisy(nn.Module):
    """Draws from every source of random numbers that there is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = block()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + torch.randn_like(x)
        random.random()
        np.random.rand()
        torch.rand(1)
        return self.body(x)


class InPlace(nn.Module):
    """Writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = block()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.mul_(2.0))


class Copied(nn.Module):
    """Says how it is copied: without what it has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.cache = block(), object()

    def __deepcopy__(self, memo: dict[int, Any]) -> Copied:
        made = Copied()
        memo[id(self)] = made
        made.load_state_dict(self.state_dict())
        return made.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def exported() -> Any:
    batch = {"x": {0: torch.export.Dim.AUTO}}
    return torch.export.export(seeded(Residual()), (X,), dynamic_shapes=batch)


def scripted(how: str) -> nn.Module:
    model = seeded(Residual())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "traced":
            return torch.jit.trace(model, X)
        script = torch.jit.script(model)
        return torch.jit.freeze(script) if how == "frozen" else script


def traced(of: Callable[[], nn.Module], change: Callable[[fx.GraphModule], object]) -> nn.Module:
    graph = fx.symbolic_trace(of().eval())
    change(graph)
    return graph


SPECIMENS: dict[str, Callable[[], Any]] = {
    "weight norm": lambda: parametrized(parametrizations.weight_norm),
    "weight norm, old": lambda: old("weight_norm"),
    "spectral norm": lambda: parametrized(parametrizations.spectral_norm),
    "spectral norm, old": lambda: old("spectral_norm"),
    "orthogonal": lambda: parametrized(parametrizations.orthogonal, at=3),
    "stacked": lambda: parametrized(stacked),
    "BatchNorm parametrized": lambda: parametrized(
        lambda norm: parametrize.register_parametrization(norm, "weight", Scaled()), at=1
    ),
    "one class for three": siblings,
    "tied below": tied_below,
    "the model itself": Whole,
    "unsafe": Unsafe,
    "pruned": pruned,
    "hooked": Hooked,
    "patched": patched,
    "tied": tied,
    "views": Views,
    "half trained": half_trained,
    "remembers": Remembers,
    "noisy": Noisy,
    "noisy in training": lambda: Noisy().train(),
    "in place": InPlace,
    "copied its own way": Copied,
    "plain": lambda: seeded(Plain()),
    "residual": lambda: seeded(Residual()),
    "exported": exported,
    "traced": lambda: scripted("traced"),
    "scripted": lambda: scripted("scripted"),
    "frozen": lambda: scripted("frozen"),
    "graph": lambda: traced(lambda: seeded(Plain()), lambda _: None),
    "graph, parametrized": lambda: traced(
        lambda: seeded(Plain()), lambda graph: parametrizations.weight_norm(graph.conv1)
    ),
    "graph, hooked": lambda: traced(
        lambda: seeded(Plain()), lambda graph: graph.register_forward_hook(lambda *_: None)
    ),
}


def build(name: str) -> Any:
    """A specimen, the same each time, in inference mode unless it is about modes."""
    torch.manual_seed(0)
    made = SPECIMENS[name]()
    keeps_mode = "train" in name or isinstance(made, torch.export.ExportedProgram)
    return made if keeps_mode or name == "frozen" else made.eval()
