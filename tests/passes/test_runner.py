import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from nets import Plain, seeded
from torch import fx

from sepify.errors import InputError, PassError
from sepify.passes.base import Condition, Pass, Result
from sepify.passes.conditions import EVALUATING
from sepify.passes.runner import run_passes


@dataclass(frozen=True)
class Bad(Pass):
    """Does what `work` does, and says what is asked."""

    work: Callable[[fx.GraphModule], Any]
    changed: bool = True

    def apply(self, graph_module: fx.GraphModule) -> Result:
        return Result(self.work(graph_module), self.changed)


@dataclass(frozen=True)
class First(Pass):
    """A copy."""

    def apply(self, graph_module: fx.GraphModule) -> Result:
        return Result(copy.deepcopy(graph_module), changed=False)


@dataclass(frozen=True)
class BadInPlace(Bad):
    in_place: ClassVar[bool] = True


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


def writes_a_permutation(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    weight = graph_module.conv2.weight.data
    weight.copy_(weight.flip(0, 1))
    return made


@pytest.mark.parametrize(
    ("work", "message"),
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
        (writes_a_permutation, "changed 'conv2.weight' of its input"),
        (writes_statistics, "changed 'bn1.running_mean' of its input"),
        (changes_mode, "changed its graph or its modules of its input"),
        (swaps_a_module, "changed 'conv1.weight' of its input"),
        (edits_the_graph, "changed its graph or its modules of its input"),
        (freezes, "changed its graph or its modules of its input"),
    ],
)
def test_a_bad_pass_is_named_with_those_before_it(work, message):
    network = fx.symbolic_trace(seeded(Plain()))
    with pytest.raises(PassError, match=rf"pass 'bad' \(after first\) {message}"):
        run_passes(network, [First(), Bad(work)])


def changed_weight(graph_module: fx.GraphModule) -> fx.GraphModule:
    made = copied(graph_module)
    made.conv2.weight.data[0] += 1
    return made


def in_training(graph_module: fx.GraphModule) -> fx.GraphModule:
    return copied(graph_module).train()


@pytest.mark.parametrize(
    ("work", "where"),
    [
        (changed_weight, "'conv2.weight'"),
        (in_training, "the graph or the modules"),
        (lambda g: torch.fx.GraphModule(copied(g), fx.symbolic_trace(lambda x: x).graph), "'conv1"),
    ],
)
def test_a_pass_that_says_it_changed_nothing_did_not(work, where):
    network = fx.symbolic_trace(seeded(Plain()))
    with pytest.raises(PassError, match=f"changed {where}.*says that it changed nothing"):
        run_passes(network, [Bad(work, changed=False)])
    run_passes(network, [Bad(copied, changed=False), Bad(work, changed=True)])


def test_what_is_no_result_is_refused():
    class Wrong(First):
        def apply(self, graph_module):
            return graph_module

    with pytest.raises(PassError, match="returned a Plain, not a Result"):
        run_passes(fx.symbolic_trace(seeded(Plain())), [Wrong()])


def test_a_pass_in_place_returns_its_input_and_never_works_on_the_callers():
    network = fx.symbolic_trace(seeded(Plain()))
    given = []

    def noted(graph_module):
        given.append(graph_module)
        return graph_module.train()

    run = run_passes(network, [BadInPlace(noted), BadInPlace(noted, changed=False)])
    assert given[0] is given[1] is run.graph_module
    assert given[0] is not network
    assert run.graph_module.training
    assert not network.training
    with pytest.raises(PassError, match="declared in place and returned another"):
        run_passes(network, [BadInPlace(copied)])


def test_what_was_not_finite_before_is_no_passes_fault():
    network = poisoned(fx.symbolic_trace(seeded(Plain())), "bn1.running_mean")
    run_passes(network, [First(), Bad(changed_weight)])


def test_a_passes_own_error_goes_through():
    def refusing(graph_module: fx.GraphModule) -> fx.GraphModule:
        raise InputError("no data")

    with pytest.raises(InputError, match="no data"):
        run_passes(fx.symbolic_trace(seeded(Plain())), [Bad(refusing)])


NEVER = Condition("this never holds", lambda graph_module: "conv1")


def test_conditions_are_held():
    @dataclass(frozen=True)
    class Requiring(First):
        requires: ClassVar = (EVALUATING,)

    @dataclass(frozen=True)
    class Ensuring(First):
        ensures: ClassVar = (NEVER,)

    network = fx.symbolic_trace(seeded(Plain()))
    run_passes(network, [Requiring()])
    network.bn1.train()
    told = r"'requiring' \(after first\) requires that every module is in evaluation mode: 'bn1'"
    with pytest.raises(PassError, match=told):
        run_passes(network, [First(), Requiring()])
    with pytest.raises(PassError, match="'ensuring' .* does not ensure that this never holds"):
        run_passes(network, [Ensuring()])


def test_what_each_did_is_told():
    @dataclass(frozen=True)
    class Telling(First):
        def apply(self, graph_module):
            return Result(copied(graph_module), False, {"conv1": "it is the first"})

    run = run_passes(fx.symbolic_trace(seeded(Plain())), [Telling(), Bad(changed_weight)])
    assert [(a.name, a.changed) for a in run.applied] == [("telling", False), ("bad", True)]
    assert run.applied[0].left_alone == {"conv1": "it is the first"}
    assert run.changed
