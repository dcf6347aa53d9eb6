import pytest
import torch
from nets import Plain, Residual, images, relative_error, rewritten, seeded
from torch import fx, nn

from sepify.passes.fold_batchnorm import FoldBatchNorm


@pytest.mark.parametrize("network", [Plain, Residual])
@torch.no_grad()
def test_folding_keeps_the_function_and_removes_every_batchnorm(network):
    traced = fx.symbolic_trace(seeded(network()))
    folded = rewritten(traced, FoldBatchNorm())
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert relative_error(folded(images()), traced(images())) < 1e-5
    assert [m for m in traced.modules() if isinstance(m, nn.BatchNorm2d)]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(self.conv(self.bn(self.conv(x))))


class SecondReader(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return y + self.bn(y)


class Behind(nn.Module):
    """Whatever comes first, and BatchNorm."""

    def __init__(self, first, bn=None):
        super().__init__()
        self.conv = first
        self.bn = nn.BatchNorm2d(3) if bn is None else bn

    def forward(self, x):
        return self.bn(self.conv(x))


def training():
    network = seeded(Behind(nn.Conv2d(3, 3, 3)))
    network.bn.train()
    return network


def with_hook():
    network = Behind(nn.Conv2d(3, 3, 3))
    network.conv.register_forward_hook(lambda *_: None)
    return network


class Own(nn.BatchNorm2d):
    pass


UNFOLDABLE = {
    "training": (training, "it is in training mode"),
    "no statistics": (
        lambda: Behind(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)).eval(),
        "it keeps no running statistics",
    ),
    "a subclass": (
        lambda: Behind(nn.Conv2d(3, 3, 3), Own(3)).eval(),
        "a Own: only BatchNorm2d is folded",
    ),
    "no convolution": (lambda: Behind(nn.ReLU()).eval(), "no Conv2d comes before it"),
    "a second reader": (
        lambda: seeded(SecondReader()),
        "something else reads the output of 'conv' too",
    ),
    "hooks": (lambda: with_hook().eval(), "'conv': forward hooks that a rewrite would lose"),
    "called twice": (
        lambda: seeded(Twice()),
        "it or its convolution is called in more than one place",
    ),
}


class LeafTracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return True


@pytest.mark.parametrize(("make", "reason"), UNFOLDABLE.values(), ids=UNFOLDABLE)
@torch.no_grad()
def test_left_alone(make, reason):
    model = make()
    network = fx.GraphModule(model, LeafTracer().trace(model))
    result = FoldBatchNorm().apply(network)
    assert dict(result.left_alone) == {"bn": reason}
    assert not result.changed
    assert result.graph_module.code == network.code


def test_what_is_to_stay_is_left_alone():
    network = fx.symbolic_trace(seeded(Plain()))
    result = FoldBatchNorm(untouched=("conv1",)).apply(network)
    assert dict(result.left_alone) == {"bn1": "'conv1' is to stay as it is"}
    assert result.changed
    assert not hasattr(result.graph_module, "bn2")
