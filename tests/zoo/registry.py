"""Every network of the zoo, by name."""

from __future__ import annotations

from zoo import (
    smp_models,
    timm_models,
    torchvision_models,
    transformers_models,
    ultralytics_models,
)
from zoo.entry import Entry

SOURCES = (torchvision_models, smp_models, ultralytics_models, transformers_models, timm_models)

ENTRIES: dict[str, Entry] = {entry.name: entry for source in SOURCES for entry in source.entries()}
