"""The convolutional families of transformers, from small configurations made here."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from zoo.entry import Entry

# class -> what its configuration says other than the default
SMALL_SWIN = dict(embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8])
MODELS: dict[str, dict[str, Any]] = {
    "ResNetForImageClassification": dict(depths=[1, 1, 2, 1]),
    "ResNetBackbone": dict(layer_type="basic", depths=[2, 2, 2, 2], out_features=["stage2"]),
    "RegNetForImageClassification": dict(layer_type="y", depths=[1, 1, 2, 1]),
    "RegNetModel": dict(layer_type="x", depths=[1, 2, 2, 1]),
    "ConvNextForImageClassification": dict(depths=[1, 1, 2, 1]),
    "ConvNextBackbone": dict(
        depths=[1, 1, 1, 1], hidden_sizes=[96, 192, 384, 768], out_features=["stage2", "stage4"]
    ),
    "ConvNextV2ForImageClassification": dict(depths=[1, 1, 2, 1]),
    "ConvNextV2Model": dict(depths=[1, 1, 1, 1]),
    "DINOv3ConvNextModel": dict(depths=[1, 1, 2, 1]),
    "MobileNetV1ForImageClassification": dict(depth_multiplier=0.5, classifier_dropout_prob=0.1),
    "MobileNetV1Model": dict(),
    "MobileNetV2ForImageClassification": dict(depth_multiplier=0.5, classifier_dropout_prob=0.1),
    "MobileNetV2ForSemanticSegmentation": dict(depth_multiplier=0.5),
    "MobileViTForImageClassification": dict(),
    "MobileViTForSemanticSegmentation": dict(),
    "MobileViTV2ForImageClassification": dict(),
    "MobileViTV2ForSemanticSegmentation": dict(),
    "EfficientNetForImageClassification": dict(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280
    ),
    "EfficientNetModel": dict(width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280),
    "BitForImageClassification": dict(depths=[1, 1, 2, 1]),
    "BitBackbone": dict(depths=[1, 1, 1, 1], layer_type="bottleneck", out_features=["stage3"]),
    "FocalNetForImageClassification": dict(embed_dim=32, depths=[1, 1, 2, 1]),
    "FocalNetBackbone": dict(embed_dim=32, depths=[1, 1, 2, 2], hidden_sizes=[32, 64, 128, 256]),
    "SegformerForImageClassification": dict(),
    "SegformerForSemanticSegmentation": dict(),
    "PoolFormerForImageClassification": dict(),
    "PoolFormerModel": dict(),
    "PvtV2ForImageClassification": dict(),
    "PvtV2Backbone": dict(out_features=["stage2", "stage4"]),
    "CvtForImageClassification": dict(),
    "CvtModel": dict(),
    "SwiftFormerForImageClassification": dict(depths=[1, 1, 2, 1]),
    "SwiftFormerModel": dict(depths=[1, 1, 1, 1]),
    "LevitForImageClassification": dict(),
    "LevitForImageClassificationWithTeacher": dict(),
    "Swin2SRForImageSuperResolution": dict(
        embed_dim=24, depths=[1, 1], num_heads=[2, 2], image_size=64, window_size=8, upscale=2
    ),
    "HGNetV2ForImageClassification": dict(),
    "HGNetV2Backbone": dict(out_features=["stage2", "stage4"]),
    "TextNetForImageClassification": dict(),
    "TextNetBackbone": dict(out_features=["stage2", "stage4"]),
    "GLPNForDepthEstimation": dict(),
    "GLPNModel": dict(),
    "DetrForObjectDetection": dict(
        encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10
    ),
    "ConditionalDetrForObjectDetection": dict(
        encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10
    ),
    "TableTransformerForObjectDetection": dict(
        encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10
    ),
    "RTDetrForObjectDetection": dict(num_queries=10, decoder_layers=1),
    "DFineForObjectDetection": dict(num_queries=10, decoder_layers=2),
    "UperNetForSemanticSegmentation": dict(),
    "VitDetModel": dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8,
        residual_block_indices=[1],
    ),
    "SuperPointForKeypointDetection": dict(),
    "PPLCNetForImageClassification": dict(),
    "PPLCNetBackbone": dict(),
    "PPOCRV5MobileDetForObjectDetection": dict(),
    "PPOCRV5MobileDetModel": dict(),
    "DPTForDepthEstimation": dict(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False,
        neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=32,
    ),
    "DPTForSemanticSegmentation": dict(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3], is_hybrid=False,
        neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=32,
    ),
    "DepthAnythingForDepthEstimation": dict(),
    "ZoeDepthForDepthEstimation": dict(),
    "MaskFormerForInstanceSegmentation": dict(),
    "Mask2FormerForUniversalSegmentation": dict(),
    "SwinForImageClassification": dict(image_size=128, window_size=4, **SMALL_SWIN),
    "SwinBackbone": dict(image_size=128, window_size=4, **SMALL_SWIN),
    "ViTForImageClassification": dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64
    ),
    "YolosForObjectDetection": dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 64],
        num_detection_tokens=10,
    ),
    "Data2VecVisionForSemanticSegmentation": dict(
        hidden_size=32, num_hidden_layers=12, num_attention_heads=2, image_size=64,
        intermediate_size=64,
    ),
}  # fmt: skip

# class -> (size, other size or None where it is fixed); the default is (64, 96)
SIZES: dict[str, tuple[int, int | None]] = {
    "SwinForImageClassification": (128, 160),
    "SwinBackbone": (128, 160),
    "LevitForImageClassification": (224, None),
    "LevitForImageClassificationWithTeacher": (224, None),
    "Swin2SRForImageSuperResolution": (64, 96),
    "ViTForImageClassification": (64, None),
    "DPTForDepthEstimation": (64, None),
    "DPTForSemanticSegmentation": (64, None),
    "Data2VecVisionForSemanticSegmentation": (64, None),
    "DepthAnythingForDepthEstimation": (56, 84),
}


def entries() -> list[Entry]:
    """The networks above; transformers is imported when one is built."""
    return [
        Entry(
            f"transformers/{name}",
            "transformers",
            _family(name),
            partial(_build, name, options),
            *SIZES.get(name, (64, 96)),
        )
        for name, options in MODELS.items()
    ]


def _family(name: str) -> str:
    head = name.partition("For")[0]
    return head.removesuffix("Backbone").removesuffix("Model").lower()


def _build(name: str, options: dict[str, Any]) -> nn.Module:
    from zoo import torchvision_shim  # noqa: F401

    import transformers  # isort: skip

    if name == "UperNetForSemanticSegmentation":
        options = dict(
            backbone_config=transformers.ConvNextConfig(
                depths=[1, 1, 1, 1],
                hidden_sizes=[96, 192, 384, 768],
                out_features=["stage1", "stage2", "stage3", "stage4"],
            ),
            hidden_size=64,
            auxiliary_in_channels=384,
        )
    if name in ("DepthAnythingForDepthEstimation", "ZoeDepthForDepthEstimation"):
        options = _depth_options(transformers, name)
    if name.startswith(("DetrFor", "ConditionalDetr", "TableTransformer")):
        backbone = transformers.ResNetConfig(depths=[1, 1, 2, 1], out_features=["stage4"])
        options = dict(options, backbone_config=backbone, backbone=None)
        if not name.startswith("DetrFor"):
            options |= dict(use_timm_backbone=False, use_pretrained_backbone=False)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**options))


def _depth_options(transformers: Any, name: str) -> dict[str, Any]:
    small = dict(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    shared = dict(neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=32)
    if name.startswith("Zoe"):
        backbone = transformers.BeitConfig(image_size=64, patch_size=16, **small)
        return dict(
            backbone_config=backbone, backbone_hidden_size=32, bottleneck_features=32, **shared
        )
    backbone = transformers.Dinov2Config(image_size=56, patch_size=14, **small)
    return dict(backbone_config=backbone, reassemble_hidden_size=32, head_hidden_size=8, **shared)
