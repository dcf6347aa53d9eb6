"""A network that was prepared works everything out once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from nets import Plain, images, network_of, seeded
from torch import fx

import sepify
from sepify.capture import network as network_file
from sepify.capture.network import Network, make_network, require_batches, require_inputs
from sepify.errors import UsageError

X = images()
DATA = torch.randn(96, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each thing is worked out."""
    counted: Counter[str] = Counter()

    def count(name: str) -> None:
        function = getattr(network_file, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(network_file, name, counting)

    for name in ("capture", "survey", "measure_maps", "inference_copy"):
        count(name)
    return counted


def graph() -> fx.GraphModule:
    return fx.symbolic_trace(seeded(Plain(16)).eval())


def test_what_was_asked_for_once_is_known(calls: Counter[str]) -> None:
    network = network_of(graph(), inputs=(X,))
    assert network.convolutions is network.convolutions
    assert network.maps is network.maps
    assert network.costs["conv1"] == network.costs["conv1"]
    assert network.to_solve(["conv1"]) is network.to_solve(("conv1",))
    assert network.to_solve(["conv1"]) is not network.to_solve([])
    assert calls == {"survey": 1, "measure_maps": 1, "inference_copy": 2}


def test_other_images_leave_what_is_known_of_the_graph(calls: Counter[str]) -> None:
    network = network_of(graph(), inputs=(X,))
    convolutions, copy = network.convolutions, network.to_solve([])
    other = network.fitted_to(((DATA,),))
    assert other.batches == ((DATA,),)
    assert network.batches is None
    assert other.convolutions is convolutions
    assert other.to_solve([]) is copy
    assert calls["survey"] == 1


def test_without_inputs_no_maps_are_known(calls: Counter[str]) -> None:
    network = network_of(graph())
    assert network.maps == {}
    assert network.costs["conv1"].macs is None
    assert calls["measure_maps"] == 0
    with pytest.raises(UsageError, match="a width needs example inputs or calibration images"):
        require_inputs(network, "a width")
    with pytest.raises(UsageError, match="a budget needs data to plan by"):
        require_batches(network)


def test_example_inputs_come_from_the_images() -> None:
    network = make_network(seeded(Plain(16)).eval(), calibration=DATA)
    assert network.inputs is not None
    assert torch.equal(network.inputs[0], DATA[:2])
    assert isinstance(network, Network)


def test_a_conversion_within_a_budget_captures_and_surveys_once(calls: Counter[str]) -> None:
    sepify.convert(
        seeded(Plain(16)).eval(),
        calibration=DATA,
        budget=sepify.Budget(macs=0.6),
        solver=sepify.Solver(refine=False, holdout=0),
    )
    assert calls["capture"] == calls["survey"] == calls["measure_maps"] == 1
    assert calls["inference_copy"] <= 2  # for planning, and for the layers that the plan rewrites
