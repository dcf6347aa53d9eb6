"""A copy of a model is what copy.deepcopy gives: the same values, shared where they were shared."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sepify.graph.copying import copy_module
from sepify.graph.own_memory import Memory


class Odd(nn.Module):
    """Everything that could be copied wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.tied = self.conv
        self.weight = self.conv.weight
        whole = torch.arange(6.0)
        self.register_buffer("whole", whole)
        self.register_buffer("detached", whole.detach())  # the same memory
        self.register_buffer("part", whole[2:4])
        self.register_buffer("nothing", None)
        self.register_buffer("last", torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
        self.register_buffer("moved", torch.randn(3, requires_grad=True))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.nested = ([1], {"a": [2]})
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Listing(Odd):
    """Remembers in a list, which stays the same object."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return super().forward(x)


def test_it_is_what_deepcopy_gives() -> None:
    model = Odd()
    ours, theirs = copy_module(model), copy.deepcopy(model)
    for made in (ours, theirs):
        assert made.conv is made.tied
        assert made.weight is made.conv.weight
        assert made.whole.data_ptr() == made.detached.data_ptr()
        assert made.part.data_ptr() == made.whole[2:].data_ptr()
        assert made.part.untyped_storage().nbytes() == made.whole.nbytes
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict(keep_vars=True).items():
        mine = ours.state_dict(keep_vars=True)[name]
        assert torch.equal(mine, tensor)
        assert (type(mine), mine.stride()) == (type(tensor), tensor.stride())
        assert (mine.requires_grad, mine.is_leaf) == (tensor.requires_grad, tensor.is_leaf)


def test_nothing_is_shared_with_the_model() -> None:
    model = Odd()
    made = copy_module(model)
    ours = {t.untyped_storage().data_ptr() for t in (*made.parameters(), *made.buffers())}
    given = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert not ours & given
    made.nested[0].append(3)
    made.nested[1]["a"].append(3)
    made.seen.append(3)
    made.conv._forward_hooks[0] = print
    assert (model.nested, model.seen, len(model.conv._forward_hooks)) == (([1], {"a": [2]}), [], 0)


def test_whether_a_run_changes_a_model_is_seen() -> None:
    x = torch.randn(2, 3, 8, 8)
    for model, changes in ((Odd(), False), (Listing(), True)):
        before = Memory(model)
        model(x)
        assert before.changed() == changes
