"""The value-carrying tracer: outputs that are dataclasses, named tuples or dicts."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import warnings
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from capture.forms import run
from nets import rewritten
from torch import Tensor, nn

from sepify.capture import capture
from sepify.graph.comparing import difference
from sepify.passes.plain_dict_outputs import PlainDictOutputs

X = torch.randn(2, 3, 16, 16)


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)


class Output(OrderedDict):  # type: ignore[type-arg]
    """As the outputs of transformers: a dataclass that is a dict as well."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None:
                self[field.name] = value


@dataclasses.dataclass
class Answer(Output):
    logits: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None


@dataclasses.dataclass
class Plain:
    logits: Tensor
    scale: float


class Point(NamedTuple):
    x: Tensor
    y: list[Tensor]


@pytest.mark.parametrize("kind", [Answer, Plain, Point])
def test_outputs_keep_their_type(kind: type) -> None:
    class Net(Conv):
        def forward(self, x: Tensor) -> object:
            y = self.conv(x)
            if x.shape[-1] < 8:
                y = y * 2
            if kind is Answer:
                return Answer(logits=y)
            return Plain(y, 2.0) if kind is Plain else Point(y, [y + 1])

    model = Net().eval()
    captured = capture(model, (X,)).graph_module
    answer = run(captured, (X,))
    assert type(answer) is kind
    assert difference(run(model, (X,)), answer, exact=True) is None
    assert type(run(copy.deepcopy(captured), (X,))) is kind
    again = run(pickle.loads(pickle.dumps(captured)), (X,))  # torch.fx traces it once more
    assert type(again) is (dict if kind is Answer else kind)
    assert difference(answer, again, exact=True) is None


def test_a_dataclass_becomes_a_dict_for_torchscript() -> None:
    class Net(Conv):
        def forward(self, x: Tensor) -> Answer:
            return Answer(logits=self.conv(x))

    model = Net().eval()
    plain = rewritten(capture(model, (X,)).graph_module, PlainDictOutputs())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = torch.jit.script(plain)(X)
    assert list(answer) == ["logits"]
    assert torch.equal(answer["logits"], run(model, (X,)).logits)


class Features(nn.Module):
    """Left whole, and answers with a dict and with a dataclass that is one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Answer]:
        y = self.conv(x)
        if float(y.abs().max()) < 0:
            return {}, Answer()
        return {"a": y, "b": y + 1}, Answer(logits=y)


def test_what_a_layer_left_whole_answers_with_can_be_asked() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = Features()

        def forward(self, x: Tensor) -> Tensor:
            found, answer = self.features(x)
            assert "a" in found
            assert "c" not in found
            assert len(found) == 2
            assert list(found.keys()) == [*found] == ["a", "b"]
            assert answer.hidden is None
            total = sum(found.values()) + answer.logits + answer["logits"]
            assert total is not None
            assert total.shape != None  # noqa: E711  as written in many a model
            half = math.floor(x.shape[2] / 2) + math.ceil(x.shape[3] / 4)
            rows = [row.sum() for row in total[0]]
            assert 16 in x.shape[2:]
            return total * half + len(rows) + float(x.shape[1])

    model = Net().eval()
    result = capture(model, (X,))
    assert [note.split(";")[0] for note in result.notes if "left whole" in note] == [
        "layer 'features' cannot be traced and is left whole"
    ]
    for x in (X, torch.randn(5, 3, 16, 16)):
        assert torch.equal(run(result.graph_module, (x,)), run(model, (x,)))
    assert "!= None" not in result.graph_module.code
