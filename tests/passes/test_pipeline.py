import pytest
import torch
from nets import Plain, seeded
from torch import fx

from sepify.errors import InputError, PassError
from sepify.passes.pipeline import Step, run_passes


def unchanged(graph_module: fx.GraphModule) -> fx.GraphModule:
    return graph_module


def broken(graph_module: fx.GraphModule) -> fx.GraphModule:
    raise KeyError("weight")


def poisoned(graph_module: fx.GraphModule) -> fx.GraphModule:
    with torch.no_grad():
        graph_module.conv1.weight[0] = float("nan")
    return graph_module


def renamed(graph_module: fx.GraphModule) -> fx.GraphModule:
    other = fx.symbolic_trace(lambda y: y + 1)
    return fx.GraphModule(graph_module, other.graph)


def refusing(graph_module: fx.GraphModule) -> fx.GraphModule:
    raise InputError("no data")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (broken, r"pass 'bad' \(after first\) failed: KeyError"),
        (poisoned, r"pass 'bad' \(after first\) left NaN or infinity in 'conv1.weight'"),
        (renamed, r"changed the inputs: \['x'\] to \['y'\]"),
    ],
)
def test_a_bad_pass_is_named_with_those_before_it(step, message):
    network = fx.symbolic_trace(seeded(Plain()))
    with pytest.raises(PassError, match=message):
        run_passes(network, [Step("first", unchanged), Step("bad", step)])


def test_a_passes_own_error_goes_through():
    with pytest.raises(InputError, match="no data"):
        run_passes(fx.symbolic_trace(seeded(Plain())), [Step("refusing", refusing)])
