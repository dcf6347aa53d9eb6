"""Small networks, each with something that a front end can get wrong."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """In-place additions and activations, projection shortcuts, view of the batch size."""

    class Block(nn.Module):
        def __init__(self, channels: int, stride: int = 1) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.downsample: nn.Module | None = None
            if stride != 1:
                self.downsample = nn.Sequential(
                    nn.Conv2d(channels, channels, 1, stride), nn.BatchNorm2d(channels)
                )

        def forward(self, x: Tensor) -> Tensor:
            identity = x
            if self.downsample is not None:
                identity = self.downsample(x)
            y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            y += identity
            return self.relu(y)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(self.Block(8), self.Block(8, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.layer1(F.relu(self.stem(x))))
        return self.fc(x.view(x.size(0), -1))


class Inception(nn.Module):
    """Branches, non-square kernels, max and average pooling, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Sequential(
            nn.Conv2d(3, 4, (1, 3), padding=(0, 1)), nn.Conv2d(4, 4, (3, 1), padding=(1, 0))
        )
        self.c = nn.Conv2d(3, 4, 3, padding="same", dilation=2)
        self.head = nn.Conv2d(15, 6, 3, stride=(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, 1, 1)
        x = torch.cat([self.a(x), self.b(x), self.c(x), pooled], 1)
        return F.max_pool2d(self.head(x), 2).flatten(1)


class MobileNet(nn.Module):
    """Depthwise convolutions, ReLU6 and hard activations, a module list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False),
                nn.BatchNorm2d(c),
                nn.ReLU6(),
                nn.Conv2d(c, 2 * c, 1),
                nn.Hardswish(),
            )
            for c in (3, 6)
        )
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(x.mean([2, 3])))


class SqueezeExcite(nn.Module):
    """Broadcast multiplication with a gate, keepdim means, sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.reduce = nn.Conv2d(8, 2, 1)
        self.expand = nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class Upsampler(nn.Module):
    """Interpolation to another tensor's size and by a factor, transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.out = nn.Conv2d(6, 3, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        z = F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        w = F.interpolate(y, scale_factor=2.0, mode="nearest")
        return self.out(z + self.up(y) + w)


class PaddingModes(nn.Module):
    """Every padding mode, all of them named convolutions in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.reflect = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.replicate = nn.Conv2d(4, 4, (3, 1), padding=(1, 0), padding_mode="replicate")
        self.circular = nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular")
        self.valid = nn.Conv2d(4, 4, 2, padding="valid")

    def forward(self, x: Tensor) -> Tensor:
        return self.valid(self.circular(self.replicate(self.reflect(x))))


class Shared(nn.Module):
    """One convolution called twice, under one of its two names; and one tied parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.again = self.first
        self.tied = nn.Conv2d(3, 3, 3, padding=1)
        self.tied.bias = self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(torch.tanh(self.again(F.relu(self.first(x)))))


class Functional(nn.Module):
    """F.conv2d with parameters of its own, called twice, beside a weight that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3))
        self.offset = nn.Parameter(torch.randn(3))
        self.other = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel, self.offset, padding=1))
        x = F.conv2d(x, self.kernel, self.offset, padding=1)
        return F.conv2d(x, self.other - self.other.mean((1, 2, 3), keepdim=True))


class Mixed(nn.Module):
    """Several inputs, a dict with a tuple in it, an optional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
        y = self.left(x) * scale
        z = self.right(mask)
        return {"sum": y + z, "left": y, "mean": z.mean()}


class Pair(nn.Module):
    """A tuple comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y = self.conv(x)
        a, b = y.chunk(2, 1)
        return y.max(dim=1)[0], (a, b)


class Shapes(nn.Module):
    """Arithmetic on sizes: halves, products, slices, a permutation, channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        b, c, h, w = y.shape
        y = y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        y = y[:, :, : h // 2, 1:]
        y = y * y.size(0) / float(h * w)
        return y.permute(0, 2, 3, 1).reshape(b, -1, c)


class Attention(nn.Module):
    """A convolutional stem, then scaled dot products written out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.position = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind()
        weights = (q @ k.transpose(-2, -1) * (c // 2) ** -0.5).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(b, n, c).mean(1)


class Overwriting(nn.Module):
    """Writes into slices of tensors, its own and computed ones, and into views."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, 0] = 0.5
        view = y[:, 1:]
        view.mul_(2.0)
        z = torch.zeros_like(y)
        z[:, :2] += y[:, 1:3]
        z.add_(1)
        return F.relu_(z - y)


class Lists(nn.Module):
    """Loops over module lists and ranges, lists that grow, a loop over the image's height."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        outs: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            x = torch.relu(conv(x)) + i
            outs.append(x)
        total = outs[0]
        for j in range(1, len(outs)):
            total = total + outs[j] * float(j)
        return torch.cat(outs[::2] + outs[:1], 1) + total.mean()


class Buffers(nn.Module):
    """Normalisation constants inside, a fixed blur held as a buffer, BatchNorm without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("blur", torch.full((3, 1, 3, 3), 1 / 9))
        self.conv = nn.Conv2d(3, 6, 3)
        self.bn = nn.BatchNorm2d(6, affine=False, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x - self.mean, self.blur, padding=1, groups=3)
        return self.bn(self.conv(x))


class Grid(nn.Module):
    """Tensors made from sizes: coordinates, zeros, a size as a tensor, minima and rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        rows = torch.arange(h, dtype=x.dtype, device=x.device).view(1, 1, h, 1) / h
        columns = torch.linspace(0, 1, w).view(1, 1, 1, w)
        grid = torch.zeros(b, 2, h, w) + torch.cat([rows.expand(1, 1, h, w)] * 2, 1) * columns
        y = self.conv(torch.cat([x, grid], 1))
        y = F.adaptive_max_pool2d(y, (min(h, 4), int(w * 0.5)))
        return y / torch.sqrt(torch.tensor(float(w)))


class Returning(nn.ModuleDict):
    """As torchvision's IntermediateLayerGetter: what some of the layers compute, by name."""

    def __init__(self) -> None:
        stages = (nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 1, 1))
        super().__init__({f"stage{number}": stage for number, stage in enumerate(stages)})
        self.wanted = {"stage1": "aux", "stage2": "out"}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = OrderedDict()
        for name, stage in self.items():
            x = F.relu(stage(x))
            if name in self.wanted:
                key = self.wanted[name]
                found[key] = x
        return found


class Segmenter(nn.Module):
    """Dicts that are filled while it runs, of features and of the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Returning()
        self.head = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        answer = OrderedDict()
        y = self.head(features["out"])
        answer["out"] = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
        answer["aux"] = features["aux"]
        return answer


class Moving(nn.Module):
    """Conversions of every kind: to a device, a dtype, both, another tensor's, with a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_ones((), dtype=torch.bool)
        mask = mask & (x > 0).to(x.device)
        y = self.conv(x.to(x.device, x.dtype)).to(torch.float64, copy=True)
        share = mask.to(y).mean(1, keepdim=True).to(device=y.device, dtype=torch.float32)
        return y.to(x.device).to(torch.float32) * share.to(memory_format=torch.channels_last)


class Bare(nn.Sequential):
    """Convolutions with integer names, GroupNorm, PReLU, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.PReLU(),
            nn.PixelShuffle(2),
            nn.Conv2d(2, 2, 3, padding=1, groups=2),
        )


@dataclass(frozen=True)
class Case:
    """A network, the shape of each input, and its 3x3-like convolutions as they must be named."""

    make: Callable[[], nn.Module]
    convs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 16, 16),)
    traces_any_size: bool = True  # torch.jit.trace itself writes the image size into the trace
    folded: int = 0  # convolutions whose computed weight a frozen trace holds as a constant

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = self.make()
        for module in model.modules():  # statistics that are not the identity
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
        return model.eval()

    def inputs(self, batch: int = 2, side: int = 16) -> tuple[Tensor, ...]:
        torch.manual_seed(batch)
        return tuple(torch.randn(batch, shape[1], side, side) for shape in self.shapes)


BLOCKS = (
    *("layer1.0.conv1", "layer1.0.conv2"),
    *("layer1.1.downsample.0", "layer1.1.conv1", "layer1.1.conv2"),
)

CASES: dict[str, Case] = {
    "resnet": Case(ResNet, ("stem", *BLOCKS)),
    "inception": Case(Inception, ("a", "b.0", "b.1", "c", "head")),
    "mobilenet": Case(MobileNet, ("blocks.0.0", "blocks.0.3", "blocks.1.0", "blocks.1.3")),
    "squeeze-excite": Case(SqueezeExcite, ("conv", "reduce", "expand")),
    "upsampler": Case(Upsampler, ("down", "out")),
    "padding-modes": Case(PaddingModes, ("reflect", "replicate", "circular", "valid")),
    "shared": Case(Shared, ("first", "first", "tied")),
    "functional": Case(Functional, ("kernel", "kernel"), folded=1),
    "mixed": Case(Mixed, ("left", "right"), ((2, 3, 16, 16), (2, 1, 16, 16))),
    "pair": Case(Pair, ("conv",)),
    "shapes": Case(Shapes, ("conv",), traces_any_size=False),
    "attention": Case(Attention, ("patch",)),
    "overwriting": Case(Overwriting, ("conv",)),
    "lists": Case(Lists, ("convs.0", "convs.1", "convs.2")),
    "buffers": Case(Buffers, ("blur", "conv")),
    "grid": Case(Grid, ("conv",), traces_any_size=False),
    "segmenter": Case(Segmenter, (*(f"backbone.stage{number}" for number in range(3)), "head")),
    "moving": Case(Moving, ("conv",)),
    "bare": Case(Bare, ("0", "4")),
}
