"""Images as they are named at a shell (folders, arrays, datasets, functions) -> tensors."""

from sepify.images.preparation import Preparation, read_preparation
from sepify.images.reading import (
    LabelledImages,
    in_memory,
    open_labelled,
    read_images,
    read_labelled,
    read_maybe_labelled,
)

__all__ = [
    "LabelledImages",
    "Preparation",
    "in_memory",
    "open_labelled",
    "read_images",
    "read_labelled",
    "read_maybe_labelled",
    "read_preparation",
]
