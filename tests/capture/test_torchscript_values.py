"""TorchScript: dicts and lists while it runs, types and devices asked for, conversions."""

from __future__ import annotations

from typing import Union

import pytest
import torch
from capture.forms import conv_targets, run, script
from capture.networks import CASES
from torch import Tensor, nn

from sepify.capture import capture
from sepify.capture.torchscript.moving import to_arguments
from sepify.capture.torchscript.values import Dependence, Traced
from sepify.errors import CaptureError
from sepify.graph.comparing import difference

X = torch.randn(2, 3, 16, 16)
Y = torch.randn(5, 3, 16, 16)


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)


def same(model: nn.Module, form: str = "scripted") -> None:
    """The captured script answers as the script does (Python's dict.popitem is another)."""
    scripted = script(model.eval(), form, (X,))
    captured = capture(scripted, (X,)).graph_module
    assert conv_targets(captured) == ["conv" if "frozen" not in form else "conv_0"]
    for x in (X, Y):
        assert difference(run(scripted, (x,)), run(captured, (x,)), exact=True) is None


def test_every_operator_of_a_dict() -> None:
    class Net(Stem):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.conv(x)
            found = torch.jit.annotate(dict[int, Tensor], {})
            found[y.size(1)] = y
            found[7] = found.setdefault(9, y * 2)
            other = dict(found)
            other.update({1: y.relu()})
            total = other.pop(7) + other.pop(100, y)
            if other.get(55) is None:
                total = total + other.get(56, y)
            del other[9]
            named = dict([("first", total), ("second", y)])  # noqa: C406
            for key, value in named.items():
                total = total + value * len(key)
            if "first" in named and 4 in other and 9 not in other:
                total = total * 2
            oldest = named.popitem()[1]
            return {"total": total, "relu": other[1], "oldest": oldest, "left": named["second"]}

    same(Net())


def test_lists_are_changed_in_place() -> None:
    class Net(Stem):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            sizes = [y.size(2), 3, y.size(1), 3]
            alias = sizes
            sizes.remove(3)
            sizes.sort()
            sizes.reverse()
            return y * alias[0] + alias[1] - alias[-1]

    same(Net())


@pytest.mark.parametrize("kind", ["dict", "list", "nested"])
def test_a_container_that_the_model_keeps_is_read_but_not_changed(kind: str) -> None:
    class Keeping(Stem):
        def __init__(self, change: bool) -> None:
            super().__init__()
            self.seen = [1, 2]
            self.cache = {"zero": torch.zeros(1)}
            self.rows = [[3]]
            self.change = change
            self.kind = kind

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if self.change:
                if self.kind == "dict":
                    self.cache["y"] = y
                elif self.kind == "list":
                    self.seen.append(x.size(1))
                else:
                    self.rows[0].append(4)
            copied = self.seen.copy()
            copied.append(len(self.rows[0]))
            return y * len(copied) + self.cache["zero"]

    same(Keeping(change=False))
    with pytest.raises(CaptureError, match=r"changes a list or dict that it keeps in itself \(.+:"):
        capture(script(Keeping(change=True).eval(), "scripted", (X,)), (X,))


class Pyramid(nn.Module):
    """Keeps what one method makes for another, as RAFT's correlation does."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = [torch.tensor(0.0)]
        self.count = 0

    def build(self, x: Tensor) -> None:
        self.count = 1
        self.levels = [x]
        for _ in range(2):
            x = nn.functional.avg_pool2d(x, 2)
            self.levels.append(x)
            self.count = self.count + 1

    def forward(self, level: int) -> Tensor:
        return self.levels[level].mean((2, 3)) * self.count


def test_what_a_call_stores_is_read_later_in_that_call() -> None:
    class Net(Stem):
        def __init__(self) -> None:
            super().__init__()
            self.pyramid = Pyramid()

        def forward(self, x: Tensor) -> Tensor:
            self.pyramid.build(self.conv(x))
            return self.pyramid(0) + self.pyramid(2)

    network = script(Net().eval(), "scripted", (X,))
    captured = capture(network, (X,))
    told = "what the model stores in its attribute 'levels' is forgotten after each call"
    assert captured.notes.count(told) == 1
    for x in (X, 2 * X[:1]):
        assert torch.equal(captured.graph_module(x), network(x))


def test_what_a_call_stores_for_the_next_is_refused() -> None:
    class Net(Stem):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return self.conv(x) * self.calls

    told = r"stores a value in itself for its next call, attribute 'calls' \(.*self.calls \+ 1"
    with pytest.raises(CaptureError, match=told):
        capture(script(Net().eval(), "scripted", (X,)), (X,))


def test_a_list_is_told_from_a_tensor_and_a_tuple() -> None:
    class Net(Stem):
        def features(self, x: Tensor) -> Union[Tensor, list[Tensor]]:  # noqa: UP007
            y = self.conv(x)
            if x.dim() == 3:
                return y
            return [y, y + 1]

        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            if isinstance(features, list):
                return features[0] * features[1]
            return features

    same(Net())


@pytest.mark.parametrize("form", ["scripted", "scripted-frozen"])
def test_a_decision_by_the_device_is_folded_with_one_note(form: str) -> None:
    class Net(Stem):
        def forward(self, x: Tensor) -> Tensor:
            if x.device.type == "cpu":
                x = x * 2
            if self.conv.weight.device.type in ["cuda", "xpu"]:
                x = x + 1
            return self.conv(x)

    same(Net(), form)
    result = capture(script(Net().eval(), form, (X,)), (X,))
    assert [n for n in result.notes if "assumed" in n] == [
        "assumed to run on 'cpu', as for the example input"
    ]


@pytest.mark.parametrize("form", ["traced", "scripted", "scripted-frozen"])
def test_attention_in_evaluation_mode_can_be_trained(form: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(self.patch(x).flatten(2).transpose(1, 2))

    torch.manual_seed(0)
    model = Net().eval()
    captured = capture(script(model, form, (X,)), (X,)).graph_module
    for x in (X, Y):
        assert difference(run(model, (x,)), run(captured, (x,)), exact=False) is None
    captured(X).square().sum().backward()
    assert all(parameter.grad is not None for parameter in captured.parameters())


def test_the_device_of_the_example_input_is_not_written_into_the_graph() -> None:
    case = CASES["moving"]
    captured = capture(script(case.model(), "traced", (X,)), (X,)).graph_module
    moves = [node for node in captured.graph.nodes if node.target == "to"]
    assert len(moves) >= 5
    assert not any(isinstance(value, torch.device) for node in moves for value in node.args)
    assert sum("copy" in node.kwargs for node in moves) == 1


def test_conversions_that_python_lacks_are_refused() -> None:
    tensor = torch.zeros(2)
    assert to_arguments({"self": tensor, "layout": torch.strided, "pin_memory": False}) == (
        (tensor,),
        {},
    )
    with pytest.raises(ValueError, match=r"layout torch\.sparse_coo"):
        to_arguments({"self": tensor, "layout": torch.sparse_coo})
    with pytest.raises(ValueError, match="pinned memory"):
        to_arguments({"self": tensor, "pin_memory": True})


def test_a_move_to_another_device_stays() -> None:
    tensor = torch.zeros(2)
    meta = torch.device("meta")
    assert to_arguments({"self": tensor, "device": meta})[0][1:] == (meta,)
    node = torch.fx.Graph().placeholder("device")
    asked = Traced(torch.device("cpu"), node, Dependence.FIXED)  # of another tensor
    assert to_arguments({"self": tensor, "device": asked, "non_blocking": True}) == (
        (tensor, asked),
        {"non_blocking": True},
    )
