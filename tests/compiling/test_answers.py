"""Whatever a network returns its tensors in, the compiled one does too."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from sepify.compiling import compile, load_compiled
from sepify.compiling.answers import put_together, require_structure, take_apart
from sepify.errors import CompileError

Pair = namedtuple("Pair", "first second")
A, B = torch.zeros(1), torch.ones(2)


class Segmenter(nn.Module):
    """As torchvision's networks for segmentation: a dict, here with all else that may be in it."""

    def __init__(self, conv: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        half = y[:, :4]
        return OrderedDict(
            out=y, parts=[half, (y.relu(),)], size=x.shape[-1], nothing=None, word="map"
        )


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    model, x = Segmenter().eval(), torch.randn(1, 3, 8, 8)
    return model, x, compile(model, x)


def same(ours, theirs):
    (have, structure), (want, wanted) = take_apart(ours), take_apart(theirs)
    assert structure == wanted
    torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-4)


def test_a_dict_comes_back_as_a_dict(compiled):
    model, x, network = compiled
    answer = network(x)
    assert list(answer) == ["out", "parts", "size", "nothing", "word"]
    assert answer["size"] == 8
    assert answer["nothing"] is None
    same(answer, model(x))


def test_a_dict_comes_back_from_a_folder(compiled, tmp_path):
    model, x, network = compiled
    same(load_compiled(network.save(tmp_path / "folder"))(x), model(x))


@pytest.mark.parametrize(
    "value",
    [
        A,
        (A,),
        [A, B],
        {"a": A, "b": (B, [A])},
        {"a": None, 1: B},
        (A, 3, 2.5, True, "x", None),
        ({}, [], A),
    ],
    ids=str,
)
def test_apart_and_together(value):
    tensors, structure = take_apart(value)
    assert put_together(structure, tensors) == value
    require_structure(structure)


def test_named_tuples_become_tuples():
    tensors, structure = take_apart(Pair(A, B))
    assert put_together(structure, tensors) == (A, B)


@pytest.mark.parametrize("value", [None, {}, 3, [1, "a"]], ids=str)
def test_no_tensor_at_all(value):
    with pytest.raises(CompileError, match="no tensor"):
        take_apart(value)


@pytest.mark.parametrize("value", [{(1, 2): A}, {A}, object()], ids=["key", "set", "object"])
def test_what_cannot_be_written_down(value):
    with pytest.raises(CompileError, match="only tensors"):
        take_apart([A, value])


@pytest.mark.parametrize(
    "structure",
    [
        *({}, [], "tensor", {"tensor": 1}, {"tensor": -1}, {"tensor": True}, {"set": []}),
        *({"tuple": 3}, {"dict": [1]}, {"dict": [[[], {"tensor": 0}]]}, {"value": []}),
        {"tensor": 0, "value": 1},
    ],
    ids=str,
)
def test_what_a_damaged_file_may_say(structure):
    with pytest.raises(ValueError, match="outputs|values to unpack|not enough"):
        put_together(structure, (A,))
    with pytest.raises(ValueError, match="outputs|values to unpack|not enough"):
        require_structure(structure)
