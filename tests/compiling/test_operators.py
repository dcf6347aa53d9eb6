"""Operators between the convolutions of image networks, compiled and compared with torch on another
input: many of each kind in one network, which returns what each gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.compiling import compile
from sepify.errors import CompileError

Operator = Callable[[Tensor], Tensor]


def grid(y: Tensor) -> Tensor:
    """Places in the image, some outside."""
    return 1.3 * torch.tanh(y[:, :2].permute(0, 2, 3, 1))


def turned(y: Tensor) -> Tensor:
    theta = torch.tensor([[[0.8, 0.1, 0.0], [0.1, 0.9, 0.1]]])
    places = F.affine_grid(theta, [1, 8, 10, 12], align_corners=False)
    return F.grid_sample(y, places, align_corners=False)


def sample(**settings: object) -> Operator:
    return lambda y: F.grid_sample(y, grid(y), **settings)


def resize(**settings: object) -> Operator:
    return lambda y: F.interpolate(y, **settings)


KINDS: dict[str, dict[str, Operator]] = {
    "padding": {
        "reflect": lambda y: F.pad(y, (1, 2, 3, 0), mode="reflect"),
        "replicate": lambda y: F.pad(y, (1, 2, 3, 0), mode="replicate"),
        "circular": lambda y: F.pad(y, (1, 2, 3, 0), mode="circular"),
        "cropping": lambda y: F.pad(y, (-1, 2, 3, -2)),
        "constant": lambda y: F.pad(y, (1, 2), value=3.0),
    },
    "pooling": {
        "adaptive average": lambda y: F.adaptive_avg_pool2d(y, (5, 3)),
        "adaptive maximum": lambda y: F.adaptive_max_pool2d(y, (5, 3)),
        "its places": lambda y: F.adaptive_max_pool2d(y, 3, return_indices=True)[1].float(),
        "average, ceiling": lambda y: F.avg_pool2d(y, 3, 2, 1, True, False),
        "average, a divisor": lambda y: F.avg_pool2d(y, 3, 2, 1, divisor_override=5),
        "maximum, ceiling": lambda y: F.max_pool2d(y, 3, 2, ceil_mode=True),
        "Lp": lambda y: F.lp_pool2d(y.abs(), 2, 2),
    },
    "resizing": {
        "nearest": resize(size=(17, 23), mode="nearest"),
        "nearest, smaller": resize(scale_factor=0.7, mode="nearest"),
        "nearest, twice": resize(scale_factor=2, mode="nearest"),
        "nearest-exact": resize(size=(17, 23), mode="nearest-exact"),
        "bilinear": resize(size=(17, 23), mode="bilinear"),
        "bilinear, corners": resize(size=(17, 23), mode="bilinear", align_corners=True),
        "bilinear, twice": resize(scale_factor=2, mode="bilinear"),
        "bilinear, a factor": resize(scale_factor=1.7, mode="bilinear"),
        "bilinear, antialiased": resize(size=(9, 7), mode="bilinear", antialias=True),
        "bicubic": resize(size=(17, 23), mode="bicubic"),
        "area": resize(size=(7, 5), mode="area"),
    },
    "sampling": {
        "corners": sample(align_corners=True),
        "border": sample(align_corners=False, padding_mode="border"),
        "reflection": sample(align_corners=False, padding_mode="reflection"),
        "bicubic": sample(align_corners=False, mode="bicubic"),
        "affine": turned,
    },
    "reductions": {
        "amax": lambda y: torch.amax(y, dim=(2, 3)),
        "any of all": lambda y: (y > 1.5).any()[None].float(),
        "any and all": lambda y: (y > 0.5).any(1).float() + (y > -0.5).all(1),
        "amax of all": lambda y: torch.amax(y)[None],
        "amin": lambda y: torch.amin(y, dim=1, keepdim=True),
        "max": lambda y: torch.max(y, 1, keepdim=True)[0],
        "max and where": lambda y: torch.max(y, 1)[0] + torch.max(y, 1)[1],
        "min": lambda y: torch.min(y, dim=1)[0],
        "var": lambda y: y.var(1, keepdim=True),
        "std": lambda y: y.std((2, 3), unbiased=False),
        "prod": lambda y: y.prod(1),
        "logsumexp": lambda y: torch.logsumexp(y, 1),
        "norm": lambda y: F.normalize(y, dim=1),
        "cumsum": lambda y: y.cumsum(2),
        "softmax": lambda y: F.softmax(y, 1),
        "cosine": lambda y: F.cosine_similarity(y, y.flip(1), dim=1),
        "distances": lambda y: torch.cdist(y.flatten(2), y.flatten(2)),
        "distances, 1": lambda y: torch.cdist(y.flatten(2), y.flatten(2), p=1.0),
    },
    "indexing": {
        "a list": lambda y: y[:, [0, 2, 1]],
        "pairs": lambda y: y[:, :, torch.tensor([3, 1]), torch.tensor([0, 2])],
        "a grid": lambda y: y[:, :, torch.tensor([[3], [1]]), torch.tensor([0, 2])],
        "apart": lambda y: y[:, torch.tensor([3, 1]), :, torch.tensor([0, 2])],
        "from the end": lambda y: y[:, [-1, 0, -3]],
        "pairs from the end": lambda y: y[:, torch.tensor([-1, 0]), torch.tensor([-2, 3])],
        "the last": lambda y: torch.stack([y, 2 * y], 1)[:, -1],
        "in front": lambda y: y[0, torch.tensor([3, 1])],
        "gather": lambda y: y.gather(1, y.argmax(1, keepdim=True)),
        "scatter_add": lambda y: torch.zeros(1, 8, 4, 16).scatter_add(
            2, (torch.arange(16) % 4)[:, None].expand(1, 8, 16, 16), y
        ),
        "embedding": lambda y: F.embedding(y.argmax(1), torch.arange(80.0).view(8, 10)),
    },
    "windows": {
        "unfold": lambda y: F.unfold(y, 3, dilation=2, padding=1, stride=2),
        "unfold, one way": lambda y: y.unfold(2, 4, 2).unfold(3, 3, 1),
        "unfold, from the end": lambda y: y.unfold(-1, 3, 5),
        "unfold, patches": lambda y: F.unfold(y, (4, 2), stride=(4, 2)),
        "fold": lambda y: F.fold(F.unfold(y, 3, padding=1), y.shape[2:], 3, padding=1),
        "fold, a rest": lambda y: F.fold(
            y.flatten(1)[:, :108, None].repeat(1, 1, 9), 8, 3, stride=2
        ),
        "pixel shuffle": lambda y: F.pixel_unshuffle(F.pixel_shuffle(y, 2), 4),
        "channel shuffle": lambda y: F.channel_shuffle(y, 2),
        "roll": lambda y: torch.roll(y, (1, -2), (2, 3)),
    },
    "activations": {
        "selu": F.selu,
        "rrelu": F.rrelu,
        "gelu": F.gelu,
        "mish": F.mish,
        "hardswish": F.hardswish,
        "group norm": nn.GroupNorm(4, 8),
        "its weight alone": lambda y: F.group_norm(y, 4, torch.arange(1.0, 9.0)),
        "prelu": nn.PReLU(8),
        "glu": lambda y: F.glu(y, 1),
        "softshrink": F.softshrink,
        "threshold": lambda y: F.threshold(y, 0.1, 0.2),
    },
    "whole numbers": {
        "log": lambda y: torch.log(y.argmax(1) + 1),
        "exp": lambda y: torch.exp(y.argmax(1)),
        "sqrt": lambda y: torch.sqrt(y.argmax(1)),
        "sin": lambda y: torch.sin(torch.arange(16)) * y,
        "reciprocal": lambda y: 1 / (y.argmax(1) + 1),
        "and a little": lambda y: (y.argmax(1) + 0.25) * 2 - 0.5,
        "of truths": lambda y: torch.where((y > 0) * (y < 1) + (y < -2), y, -y),
        "times": lambda y: y.argmax(1, keepdim=True) * y,
        "a quotient": lambda y: y.argmax(1) / 3,
        "a comparison": lambda y: torch.where(y.argmax(1, keepdim=True) > 2.5, y, -y),
    },
    "transposed": {
        "and padded": lambda y: F.pad(
            F.conv_transpose2d(y, torch.ones(8, 2, 3, 3), stride=2), (0, 1, 0, 1)
        ),
    },
    "division": {
        "floor": lambda y: (10 * y) // 0.3,
        "floor by a whole number": lambda y: (10 * y) // 2,
        "trunc": lambda y: torch.div(10 * y, 0.3, rounding_mode="trunc"),
        "of places": lambda y: (y.argmax(1) // 3).float(),
        "of places by a tensor": lambda y: (y.argmax(1) // torch.full((16,), 3)).float(),
        "of negative ones": lambda y: torch.div(y.argmax(1) - 4, 3, rounding_mode="trunc").float(),
        "remainder": lambda y: (y.argmax(1) % 3).float(),
    },
}


class Several(nn.Module):
    """A convolution, and operators on what it gives."""

    def __init__(self, operators: dict[str, Operator]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.operators = list(operators.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        return tuple(operator(y) for operator in self.operators)


@pytest.mark.parametrize("kind", KINDS)
def test_operators_are_right_on_another_input(kind, tmp_path_factory):
    torch.manual_seed(0)
    model = Several(KINDS[kind]).eval()
    database = tmp_path_factory.getbasetemp() / "operators"
    compiled = compile(model, torch.randn(1, 3, 16, 16), database=database)
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
    for name, have, want in zip(KINDS[kind], compiled(x), expected, strict=True):
        scale = float(want.abs().max())
        assert have.shape == want.shape, name
        assert float((have - want).abs().max()) <= 1e-4 * scale, name


def test_places_of_a_maximum_that_tvm_gets_wrong_are_refused():
    def unpool(y: Tensor) -> Tensor:
        return F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)

    with pytest.raises(CompileError, match="TVM could not import the network"):
        compile(Several({"unpool": unpool}), torch.randn(1, 3, 16, 16))


class Recurrent(nn.Module):
    """Columns of a map as time steps, as networks that read text have them."""

    def __init__(self, kind: type[nn.RNNBase], **settings: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.rnn = kind(8, 32, batch_first=True, **settings)

    def forward(self, x):
        return self.rnn(self.conv(x).mean(2).transpose(1, 2))[0]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(nn.LSTM, {"bidirectional": True, "num_layers": 2}), (nn.GRU, {})],
    ids=["LSTM", "GRU"],
)
def test_recurrent_weights_are_stored_once(kind, settings):
    torch.manual_seed(0)
    model, x = Recurrent(kind, **settings).eval(), torch.randn(1, 1, 4, 12)
    compiled = compile(model, x)
    torch.testing.assert_close(compiled(x), model(x), atol=1e-4, rtol=1e-4)
    own = sum(parameter.numel() * 4 for parameter in model.parameters())
    assert compiled.metadata.memory["weights"] < 1.5 * own  # biases and padding of small layers


@pytest.mark.parametrize(
    "layer",
    [nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1)],
    ids=["even", "odd"],
)
@pytest.mark.parametrize("form", [torch.jit.trace, lambda model, _: torch.jit.script(model)])
def test_transposed_convolutions_of_torchscript_have_kernels(layer, form):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), layer).eval()
    x = torch.randn(1, 3, 7, 9)
    compiled = compile(form(model, x), x)
    torch.testing.assert_close(compiled(x), model(x), atol=1e-4, rtol=1e-4)
    assert not compiled.metadata.given_up
    assert compiled.metadata.own_kernels["conv"] == 2
