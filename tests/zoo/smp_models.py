"""Every decoder of segmentation-models-pytorch, and every kind of encoder that it brings itself."""

from __future__ import annotations

from functools import partial

from torch import nn

from zoo.entry import Entry

DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3",
            "DeepLabV3Plus", "UPerNet", "Segformer", "DPT")  # fmt: skip
ENCODERS = ("resnet18", "densenet121", "efficientnet-b0", "mobilenet_v2", "timm-skresnet18",
            "mit_b0", "mobileone_s0", "dpn68", "xception", "vgg11_bn", "se_resnet50",
            "inceptionv4", "resnext50_32x4d", "timm-efficientnet-b0")  # fmt: skip
SIZES = {"PAN": (128, 160)}


def entries() -> list[Entry]:
    """Each decoder on two encoders, each encoder under a Unet; imported when one is built."""
    pairs = [(decoder, "resnet18") for decoder in DECODERS if decoder != "DPT"]
    pairs += [(decoder, "mobilenet_v2") for decoder in DECODERS if decoder != "DPT"]
    pairs += [("Unet", encoder) for encoder in ENCODERS]
    made = [
        _entry(decoder, encoder, *SIZES.get(decoder, (64, 96)))
        for decoder, encoder in dict.fromkeys(pairs)
    ]
    return [*made, _entry("DPT", "tu-vit_tiny_patch16_224.augreg_in21k", 224, None)]


def _entry(decoder: str, encoder: str, size: int = 64, other: int | None = 96) -> Entry:
    name = f"smp/{decoder}-{encoder.partition('.')[0]}"
    return Entry(name, "smp", decoder, partial(_build, decoder, encoder), size, other)


def _build(decoder: str, encoder: str) -> nn.Module:
    from zoo import torchvision_shim  # noqa: F401

    import segmentation_models_pytorch as smp  # isort: skip

    return getattr(smp, decoder)(encoder, encoder_weights=None, classes=5)
