"""A captured network with what later steps ask of it, each worked out once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, fx

from sepify.capture.capture import Model, capture
from sepify.capture.captured import Captured
from sepify.errors import UsageError
from sepify.graph.batches import Batch, Calibration, calibration_batches, on_device_of
from sepify.graph.convolutions import Convolution, survey
from sepify.graph.inputs import Inputs, require_tensors
from sepify.graph.maps import Maps, measure_maps
from sepify.graph.sound import require_finite_weights, require_taken
from sepify.passes.pipelines import inference_copy
from sepify.plans.costs import Cost, standard_cost


@dataclass(frozen=True, eq=False)
class Network:
    """What is planned, solved and converted; nothing below is captured or surveyed again.

    Attributes:
        captured: the graph, a copy that nobody changes, and how the model became it.
        inputs: one example of each input, batch first, or None where none are known.
        batches: unlabelled images to plan by and to fit to, or None.
    """

    captured: Captured
    inputs: Inputs | None = None
    batches: tuple[Batch, ...] | None = None
    _copies: dict[frozenset[str], fx.GraphModule] = field(default_factory=dict, repr=False)

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph, in the mode the model was in."""
        return self.captured.graph_module

    @cached_property
    def convolutions(self) -> tuple[Convolution, ...]:
        """Every convolution of the graph, and whether it can be separated."""
        return survey(self.graph_module)

    @cached_property
    def maps(self) -> Mapping[str, Maps]:
        """The map sizes of every convolution that is called; empty without example inputs."""
        return {} if self.inputs is None else measure_maps(self.graph_module, self.inputs)

    @cached_property
    def costs(self) -> Mapping[str, Cost]:
        """What every convolution costs as it is."""
        return {c.name: standard_cost(c, self.maps.get(c.name)) for c in self.convolutions}

    def to_solve(self, untouched: Collection[str]) -> fx.GraphModule:
        """The copy that solvers and planners run and nobody changes: in inference mode, with
        BatchNorm folded but for that behind the convolutions named in `untouched`."""
        key = frozenset(untouched)
        if key not in self._copies:
            self._copies[key] = inference_copy(self.graph_module, untouched=key)
        return self._copies[key]

    def fitted_to(self, batches: tuple[Batch, ...] | None) -> Network:
        """The same network with other images; what is known of its graph stays known."""
        other = replace(self, batches=batches)
        known = {name: value for name, value in vars(self).items() if name not in vars(other)}
        vars(other).update(known)
        return other

    def require_steady(self, resized: bool) -> None:
        """Raise UsageError for a state of the network's own that stands in the way of calibration
        images, or of a width or a resolution (`resized`)."""
        if resized:
            why = "a width or a resolution would have to change the state too"
            self.captured.require_no_state(why)
        if self.batches is not None:
            self.captured.require_no_hidden_state(
                "leave the calibration images out and give method='svd'"
            )


def make_network(
    model: Model,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    calibration: Calibration | None = None,
) -> Network:
    """Capture `model` and look at everything that is given with it.

    Args:
        model: anything that `capture` takes.
        example_inputs: one example of each input, batch first; taken from the images without them.
        calibration: unlabelled images `(n, C, H, W)`, or a loader of batches.

    Raises:
        CaptureError: the model cannot be captured.
        ConversionError: a weight holds NaN or infinity.
        InputError: the images or the example inputs do not fit the model.
    """
    inputs = None if example_inputs is None else require_tensors(example_inputs)
    inputs = None if inputs is None else on_device_of(model, inputs)
    batches = None
    if calibration is not None:
        checked = calibration_batches(calibration, inputs=len(inputs) if inputs else 1, like=inputs)
        batches = tuple(on_device_of(model, batch) for batch in checked)
        if inputs is None:
            batches = tuple(tuple(_as_weights(model, t) for t in batch) for batch in batches)
            inputs = tuple(tensor[:2] for tensor in batches[0])
    captured = capture(model, inputs)
    require_finite_weights(captured.graph_module)
    return Network(captured, inputs, batches)


def require_images(network: Network) -> None:
    """Raise InputError where the network does not take its images."""
    require_taken(network.graph_module, network.batches)


def require_inputs(network: Network, what: str) -> Inputs:
    """The example inputs. Raises UsageError, naming `what` needs them, where there are none."""
    if network.inputs is None:
        raise UsageError(f"{what} needs example inputs or calibration images")
    return network.inputs


def require_batches(network: Network) -> tuple[Batch, ...]:
    """The images. Raises UsageError where there are none."""
    if network.batches is None:
        raise UsageError("a budget needs data to plan by: give calibration images")
    return network.batches


def _as_weights(model: Model, images: Tensor) -> Tensor:
    """Floating-point images in the type of the weights where that is float32 or float64: a network
    of fewer bits may well read more of them."""
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)
    wide = weights in (torch.float32, torch.float64) and images.is_floating_point()
    return images.to(weights) if wide else images
