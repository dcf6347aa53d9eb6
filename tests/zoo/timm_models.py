"""Two or more of every family of timm that convolves, the smallest there are."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from zoo.entry import Entry

# family -> names; a suffix :size, :size/other or :size/- (fixed) says which images it takes
FAMILIES = {
    "byoanet": "eca_botnext26ts_256:256/- lambda_resnet26t:128/256 "
    "halonet_h1:256/- eca_halonext26ts:256/-",
    "byobnet": "repvgg_a0 gernet_s mobileone_s0 regnetz_b16 resnet50_clip:224/-",
    "coat": "coat_tiny:224/- coat_lite_tiny:224/-",
    "convit": "convit_tiny:224/-",
    "convmixer": "convmixer_768_32 convmixer_1024_20_ks9_p14:56/112",
    "convnext": "convnext_atto convnextv2_atto convnext_zepto_rms_ols",
    "cpubone": "cpubone_nano cpubone_t0",
    "crossvit": "crossvit_tiny_240:240/- crossvit_9_dagger_240:240/-",
    "csatv2": "csatv2:128/256",
    "cspnet": "cs3darknet_s cs3darknet_focus_s cspresnet50 darknet17 cspresnext50",
    "cspnext": "cspnext_tiny cspnext_s",
    "davit": "davit_tiny:64/128",
    "densenet": "densenet121 densenetblur121d",
    "dla": "dla34 dla46_c dla60_res2net",
    "dpn": "dpn48b dpn68",
    "edgenext": "edgenext_xx_small edgenext_small_rw",
    "efficientformer": "efficientformer_l1:224/-",
    "efficientformer_v2": "efficientformerv2_s0:224/- efficientformerv2_s1:224/-",
    "efficientnet": "efficientnet_b0 efficientnet_es efficientnet_lite0 "
    "mixnet_m mnasnet_small tf_efficientnetv2_b0 mobilenetv2_050",
    "efficientvim": "efficientvim_m1:64/128 efficientvim_m2:64/128",
    "efficientvit_mit": "efficientvit_b0 efficientvit_l1",
    "efficientvit_msra": "efficientvit_m0:224/- efficientvit_m1:224/-",
    "fasternet": "fasternet_t0 fasternet_t1",
    "fastvit": "fastvit_t8 fastvit_sa12",
    "focalnet": "focalnet_tiny_srf:64/128",
    "gcvit": "gcvit_xxtiny:224/-",
    "ghostnet": "ghostnet_050 ghostnetv2_100 ghostnetv3_050",
    "hardcorenas": "hardcorenas_a hardcorenas_f",
    "hgnet": "hgnet_tiny hgnetv2_b0",
    "hrnet": "hrnet_w18_small hrnet_w18_small_v2",
    "iformer": "iformer_t:64/128 iformer_s:64/128",
    "inception": "inception_v3:128/160 inception_v4:128/160 inception_resnet_v2:128/160",
    "inception_next": "inception_next_atto",
    "lcnetv2": "lcnetv2_small lcnetv2_base",
    "levit": "levit_conv_128s:224/- levit_128s:224/-",
    "lowformer": "lowformer_b0 lowformer_e1",
    "mambaout": "mambaout_femto mambaout_kobe",
    "maxxvit": "coatnet_pico_rw_224:224/- maxvit_pico_rw_256:256/- coatnext_nano_rw_224:224/-",
    "metaformer": "poolformer_s12 poolformerv2_s12 convformer_s18 caformer_s18",
    "mobilenetv3": "mobilenetv3_small_050 lcnet_050 "
    "mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium fbnetv3_b",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "mvitv2": "mvitv2_tiny:224/-",
    "nasnet": "nasnetalarge:64/- pnasnet5large:64/-",
    "nest": "nest_tiny:224/-",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0 nf_resnet26 dm_nfnet_f0 eca_nfnet_l0",
    "pit": "pit_ti_224:224/-",
    "pvt_v2": "pvt_v2_b0 pvt_v2_b2_li",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002 regnety_002 regnetv_040",
    "repghost": "repghostnet_050 repghostnet_080",
    "repvit": "repvit_m0_9 repvit_m1_1",
    "res2net": "res2net50_48w_2s res2next50 res2net50d",
    "resnest": "resnest14d resnest26d",
    "resnet": "resnet10t resnet18 resnet26d resnet50 resnetaa50 "
    "resnetblur18 ecaresnet26t seresnext26d_32x4d resnetrs50 wide_resnet50_2",
    "resnetv2": "resnetv2_18 resnetv2_50x1_bit resnetv2_50d_gn resnetv2_50d_evos",
    "rexnet": "rexnet_100 rexnetr_100",
    "selecsls": "selecsls42 selecsls60",
    "senet": "legacy_seresnet18 legacy_seresnext26_32x4d",
    "shvit": "shvit_s1:64/128 shvit_s2:64/128",
    "sknet": "skresnet18 skresnet34",
    "starnet": "starnet_s050 starnet_s1",
    "swiftformer": "swiftformer_xs:224/- swiftformer_s:224/-",
    "tiny_vit": "tiny_vit_5m_224:224/-",
    "tresnet": "tresnet_m",
    "twins": "twins_pcpvt_small:224/- twins_svt_small:224/-",
    "vgg": "vgg11 vgg13_bn",
    "visformer": "visformer_tiny:224/-",
    "vision_transformer": "vit_tiny_patch16_224:224/- deit_tiny_patch16_224:224/-",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224:224/- vit_small_r26_s32_224:224/-",
    "vitamin": "vitamin_small_224:224/-",
    "volo": "volo_d1_224:224/-",
    "vovnet": "ese_vovnet19b_slim eca_vovnet39b ese_vovnet19b_dw",
    "xception": "legacy_xception:96/128 xception41:96/128 xception41p:96/128",
    "xcit": "xcit_nano_12_p16_224:224/-",
}  # fmt: skip


def entries() -> list[Entry]:
    """The networks above; timm is imported when one is built."""
    return [_entry(family, text) for family, texts in FAMILIES.items() for text in texts.split()]


def _entry(family: str, text: str) -> Entry:
    name, _, sizes = text.partition(":")
    size, _, other = sizes.partition("/")
    first = int(size or 64)
    second = None if other == "-" else int(other or first + 32)
    return Entry(f"timm/{name}", "timm", family, partial(_build, name), first, second)


def _build(name: str, **options: Any) -> nn.Module:
    from zoo import torchvision_shim  # noqa: F401  timm imports torchvision

    import timm  # isort: skip

    return timm.create_model(name, pretrained=False, **options)
