import copy

import pytest
import torch
from nets import Plain, seeded
from torch import fx

from sepify.errors import InputError, PassError
from sepify.passes.pipeline import Step, run_passes


def copied(graph_module: fx.GraphModule) -> fx.GraphModule:
    return copy.deepcopy(graph_module)


def broken(graph_module: fx.GraphModule) -> fx.GraphModule:
    raise KeyError("weight")


def poisoned(graph_module: fx.GraphModule, name: str = "conv1.weight") -> fx.GraphModule:
    poisoned = copied(graph_module)
    poisoned.state_dict()[name].view(-1)[0] = float("nan")
    return poisoned


def renamed(graph_module: fx.GraphModule) -> fx.GraphModule:
    other = fx.symbolic_trace(lambda y: y + 1)
    return fx.GraphModule(copied(graph_module), other.graph)


def without_a_module(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    del made.conv1
    return made


def no_graph(graph_module: fx.GraphModule) -> fx.GraphModule:
    return torch.nn.Identity()  # type: ignore[return-value]


def itself(graph_module: fx.GraphModule) -> fx.GraphModule:
    return graph_module


def sharing(graph_module: fx.GraphModule) -> fx.GraphModule:
    return fx.GraphModule(graph_module, copy.deepcopy(graph_module.graph))


def writes_weights(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    graph_module.conv2.weight.data[0] += 1  # which no version counts
    return made


def writes_statistics(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    graph_module.bn1.train()(torch.randn(2, 8, 4, 4))
    graph_module.bn1.eval()
    return made


def changes_mode(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    graph_module.train()
    return made


def swaps_a_module(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    graph_module.conv1 = copy.deepcopy(graph_module.conv1)
    return made


def edits_the_graph(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    node = next(n for n in graph_module.graph.nodes if n.name == "relu")
    node.target = torch.tanh
    return made


def freezes(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    graph_module.requires_grad_(False)
    return made


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (broken, "failed: KeyError"),
        (poisoned, "left NaN or infinity in 'conv1.weight'"),
        (lambda g: poisoned(g, "bn1.running_var"), "left NaN or infinity in 'bn1.running_var'"),
        (renamed, r"changed the inputs: \['x'\] to \['y'\]"),
        (without_a_module, "left a broken graph"),
        (no_graph, "returned a Identity, not a GraphModule"),
        (itself, "returned its input, and is not declared in place"),
        (sharing, "shares 'conv1.weight' with its input"),
        (writes_weights, "changed 'conv2.weight' of its input, and is not declared in place"),
        (writes_statistics, "changed 'bn1.running_mean' of its input"),
        (changes_mode, "changed its graph or its modules of its input"),
        (swaps_a_module, "changed 'conv1.weight' of its input"),
        (edits_the_graph, "changed its graph or its modules of its input"),
        (freezes, "changed its graph or its modules of its input"),
    ],
)
def test_a_bad_pass_is_named_with_those_before_it(step, message):
    network = fx.symbolic_trace(seeded(Plain()))
    with pytest.raises(PassError, match=rf"pass 'bad' \(after first\) {message}"):
        run_passes(network, [Step("first", copied), Step("bad", step)])


def test_a_pass_in_place_returns_its_input():
    network = fx.symbolic_trace(seeded(Plain()))
    assert run_passes(network, [Step("itself", itself, in_place=True)]) is network
    with pytest.raises(PassError, match="declared in place and returned another"):
        run_passes(network, [Step("copied", copied, in_place=True)])


def test_what_was_not_finite_before_is_no_passes_fault():
    network = poisoned(fx.symbolic_trace(seeded(Plain())), "bn1.running_mean")
    run_passes(network, [Step("copied", copied)])


def test_a_passes_own_error_goes_through():
    def refusing(graph_module: fx.GraphModule) -> fx.GraphModule:
        raise InputError("no data")

    with pytest.raises(InputError, match="no data"):
        run_passes(fx.symbolic_trace(seeded(Plain())), [Step("refusing", refusing)])
