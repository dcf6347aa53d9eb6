"""Pictures, decoded by Pillow."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sepify.errors import FileError
from sepify.faults import reading
from sepify.storage.reading import open_file

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 2**27  # of one picture: 512 MiB as Pillow holds it
# Those that Pillow decodes itself: others start programs (EPS: Ghostscript), whatever the suffix.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def read_picture(path: Path | str, content: bytes | None = None) -> Image:
    """A picture of 8 bits a channel, decoded; of `content`, where that was read from `path`
    already. Raises FileError naming the file."""
    from PIL import Image

    with reading(path, "a picture"), warnings.catch_warnings():
        # what Pillow warns of is either read all the same, or refused here
        warnings.simplefilter("ignore")
        with io.BytesIO(content) if content is not None else open_file(Path(path)) as file:
            Image.init()  # or it would know a part of them alone
            picture = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
            if picture.width * picture.height > MOST_PIXELS:
                raise FileError(
                    f"{path} has {picture.width}x{picture.height} pixels, more than are read "
                    f"({MOST_PIXELS:,})"
                )
            picture.load()
        return _of_eight_bits(picture, path)


def _of_eight_bits(picture: Image, path: Path | str) -> Image:
    """Pillow cuts 16 bits off at 255 instead of scaling them."""
    from PIL import Image

    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format != "TIFF"):
        values = np.asarray(picture).astype(np.int64) >> 8
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise FileError(
            f"{path} holds {'whole' if picture.mode == 'I' else 'floating-point'} numbers of 32 "
            "bits, whose range nobody knows: save a picture of 8 or 16 bits a channel, or arrays"
        )
    return picture
