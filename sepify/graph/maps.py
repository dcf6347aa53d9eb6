"""How large the maps are that each convolution of a graph reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from sepify.graph.inputs import in_evaluation, run_in_place
from sepify.graph.modules import convolutions_inside


@dataclass(frozen=True)
class Maps:
    """Pixels that a convolution reads and writes for one image, over all its calls; `halfway`
    are those of a map with the rows of the one written and the columns of the one read."""

    read: Fraction
    written: Fraction
    halfway: Fraction | None = None

    @property
    def between(self) -> Fraction:
        """Those of the map between a column and a row that stand in for the window; as many as
        are written where nothing else is known."""
        return self.written if self.halfway is None else self.halfway


def measure_maps(
    graph_module: fx.GraphModule, example_inputs: tuple[Tensor, ...]
) -> dict[str, Maps]:
    """Run `example_inputs` through once and note the map sizes of every called convolution."""
    with in_evaluation(graph_module) as model:
        recorder = _MapRecorder(model, images=len(example_inputs[0]))
        inside = {
            name: conv
            for node in model.graph.nodes
            for name, conv in convolutions_inside(model, node)
        }
        hooks = [
            conv.register_forward_hook(partial(recorder.note_call, name), with_kwargs=True)
            for name, conv in inside.items()
        ]
        try:
            run_in_place(recorder.run, example_inputs)
        finally:
            for hook in hooks:
                hook.remove()
    return recorder.maps


class _MapRecorder(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule, images: int) -> None:
        super().__init__(graph_module)
        self.images = images
        self.maps: dict[str, Maps] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        module = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, nn.modules.conv._ConvNd) and isinstance(result, Tensor):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            self.note_call(str(n.target), module, args, kwargs, result)
        return result

    def note_call(
        self,
        name: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Tensor,
    ) -> None:
        """Add a call of the convolution `name` to its maps."""
        if not isinstance(module, nn.modules.conv._ConvNd):
            return
        given = args[0] if args else kwargs["input"]
        channels = -1 - len(module.kernel_size)
        maps = self.maps.get(name, Maps(Fraction(0), Fraction(0), Fraction(0)))
        self.maps[name] = Maps(
            maps.read + Fraction(given.numel(), given.shape[channels] * self.images),
            maps.written + Fraction(result.numel(), result.shape[channels] * self.images),
            maps.between + _halfway(given, result) / self.images,
        )


def _halfway(given: Tensor, result: Tensor) -> Fraction:
    """Pixels with the rows of `result` and the columns of `given`, over the whole batch."""
    if given.dim() < 3 or result.dim() < 3:
        return Fraction(0)
    batch = len(given) if given.dim() == 4 else 1
    return Fraction(batch * result.shape[-2] * given.shape[-1])
