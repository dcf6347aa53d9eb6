"""Two or more of every family of torchvision: classification, segmentation, flow, detection."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from zoo.entry import Entry

# family -> names; a suffix :size, :size/other or :size/- (fixed) says which images it takes
FAMILIES = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "deeplabv3": "deeplabv3_resnet50 deeplabv3_mobilenet_v3_large",
    "densenet": "densenet121 densenet169",
    "efficientnet": "efficientnet_b0 efficientnet_v2_s",
    "fcn": "fcn_resnet50",
    "googlenet": "googlenet inception_v3:96/128",
    "lraspp": "lraspp_mobilenet_v3_large",
    "maxvit": "maxvit_t:224/-",
    "mnasnet": "mnasnet0_5 mnasnet1_0",
    "mobilenet": "mobilenet_v2 mobilenet_v3_small mobilenet_v3_large",
    "raft": "raft_small:128/136 raft_large:128/136",
    "regnet": "regnet_x_400mf regnet_y_400mf",
    "resnet": "resnet18 resnet34 resnet50 wide_resnet50_2 resnext50_32x4d",
    "shufflenet": "shufflenet_v2_x0_5 shufflenet_v2_x1_0",
    "squeezenet": "squeezenet1_0 squeezenet1_1",
    "ssd": "ssd300_vgg16:300/- ssdlite320_mobilenet_v3_large:320/-",
    "swin": "swin_t swin_v2_t",
    "vgg": "vgg11 vgg11_bn vgg16_bn",
    "vit": "vit_b_32:224/-",
}

# what their constructors need so as to make all of a network, and download nothing
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}
BACKBONED = ("deeplabv3", "fcn", "lraspp", "ssd")


def entries() -> list[Entry]:
    """The networks above; torchvision is imported when one is built."""
    return [_entry(family, text) for family, texts in FAMILIES.items() for text in texts.split()]


def _entry(family: str, text: str) -> Entry:
    name, _, sizes = text.partition(":")
    size, _, other = sizes.partition("/")
    first = int(size or 64)
    second = None if other == "-" else int(other or first + 32)
    options = dict(OPTIONS.get(name, {}))
    if family in BACKBONED:
        options["weights_backbone"] = None
    build = partial(_build_ssd if family == "ssd" else _build, name, **options)
    images = 2 if family == "raft" else 1
    return Entry(f"torchvision/{name}", "torchvision", family, build, first, second, images)


def _build(name: str, **options: Any) -> nn.Module:
    from zoo import torchvision_shim  # noqa: F401

    import torchvision.models  # isort: skip

    builder = torchvision.models.get_model_builder(name)
    return builder(weights=None, **options)


def _build_ssd(name: str, **options: Any) -> nn.Module:
    """Backbone and head, which convolve; around them is a transform over lists of images of any
    size and a selection of boxes, in Python and data-dependent."""
    detector = _build(name, **options)
    return _Detector(detector.backbone, detector.head)


class _Detector(nn.Module):
    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Any) -> Any:
        return self.head(list(self.backbone(x).values()))
