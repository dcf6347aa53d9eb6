"""How a picture becomes what a network was trained on: size, crop, mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sepify.errors import DependencyError, UsageError, first_line
from sepify.faults import users_code
from sepify.storage import read_json
from sepify.storage.pictures import MOST_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SIDE = 32_768  # pixels
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
HELP = (
    "give size=256,crop=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225 (each as needed), a timm "
    "or torchvision config.json, timm:MODEL or torchvision:WEIGHTS"
)


@dataclass(frozen=True)
class Preparation:
    """Resize (the shorter side to `size`, or exactly to a pair), crop the middle, divide by 255,
    subtract `mean` and divide by `std`, one value a channel or one for all. None leaves a step out.
    """

    size: int | tuple[int, int] | None = None  # height, width
    crop: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    interpolation: str = "bilinear"

    def of_picture(self, picture: Image, channels: int) -> Tensor:
        """A Pillow image as a tensor (channels, H, W); grey for one channel, else RGB."""
        from PIL.Image import Resampling

        picture = picture.convert("L" if channels == 1 else "RGB")
        if self.size is not None:
            height, width = _target(self.size, picture.height, picture.width)
            if height * width > MOST_PIXELS:
                raise UsageError(
                    f"--preprocess would make a picture of {picture.width}x{picture.height} one of "
                    f"{width}x{height}: at most {MOST_PIXELS:,} pixels"
                )
            how = Resampling[self.interpolation.upper()]
            picture = picture.resize((width, height), how)
        pixels = torch.from_numpy(np.array(picture))
        pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
        if self.crop is not None:
            pixels = _middle(pixels, self.crop)
        return self.normalised(pixels)

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (..., C, H, W) as float32. Raises UsageError where `mean` or `std` have
        neither one value nor one a channel."""
        channels = pixels.shape[-3]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise UsageError(
                    f"{len(values)} values of {name} for images of {channels} channels"
                )
        mean = torch.tensor(self.mean)[:, None, None]
        std = torch.tensor(self.std)[:, None, None]
        return (pixels.float() / 255 - mean) / std


def for_shape(shape: Sequence[int]) -> Preparation:
    """Where nobody says how: exactly the size of the model's input (N, C, H, W), values 0 to 1."""
    return Preparation(size=(shape[-2], shape[-1]))


def read_preparation(text: str) -> Preparation:
    """What --preprocess says. Raises UsageError, or DependencyError for a library that is not
    installed."""
    if text.startswith("timm:"):
        return _from_timm(text.removeprefix("timm:"))
    if text.startswith("torchvision:"):
        return _from_torchvision(text.removeprefix("torchvision:"))
    if text.endswith(".json"):
        return from_config(read_json(Path(text)), text)
    return _from_words(text)


def from_config(config: Any, where: str) -> Preparation:
    """timm's (`input_size`, `crop_pct`, ...) or torchvision's (`resize_size`, `crop_size`, ...)
    names for the same things. Raises UsageError where the config has neither."""
    if isinstance(config, dict) and isinstance(config.get("pretrained_cfg"), dict):
        config = config["pretrained_cfg"]
    if not isinstance(config, dict) or not {"input_size", "crop_size", "mean"} & config.keys():
        raise UsageError(f"{where} says nothing of size, crop, mean or std; {HELP}")
    mean, std = _numbers(config, "mean", where) or (0.0,), _numbers(config, "std", where) or (1.0,)
    interpolation = str(config.get("interpolation") or "bilinear").lower().rpartition(".")[2]
    made = Preparation(None, None, mean, std, _interpolation(interpolation, where))
    if "input_size" in config:  # timm: the crop is crop_pct of the resized picture
        sides = _numbers(config, "input_size", where)
        share = (_numbers(config, "crop_pct", where) or (0.875,))[0] or 0.875
        if len(sides) < 2 or not 0.01 <= share <= 1:
            raise UsageError(f"{where}: input_size is (C, H, W) and crop_pct a share up to 1")
        height, width = (_side(side, where) for side in sides[-2:])
        scaled = (math.floor(height / share), math.floor(width / share))
        made = replace(made, size=scaled[0] if height == width else scaled, crop=(height, width))
        return _sound(made, where)
    resize, crop = (
        tuple(_side(side, where) for side in _numbers(config, name, where))
        for name in ("resize_size", "crop_size")
    )
    size = None if not resize else resize[0] if len(resize) == 1 else (resize[0], resize[-1])
    return _sound(replace(made, size=size, crop=(crop[0], crop[-1]) if crop else None), where)


def _from_words(text: str) -> Preparation:
    made = Preparation()
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        try:
            if not equals:
                raise ValueError(part)
            if name == "size":
                made = replace(made, size=int(value) if "x" not in value else _sides(value))
            elif name == "crop":
                made = replace(made, crop=_sides(value))
            elif name in ("mean", "std"):
                numbers = tuple(float(number) for number in value.split("/"))
                made = replace(made, mean=numbers) if name == "mean" else replace(made, std=numbers)
            elif name == "interpolation":
                made = replace(made, interpolation=_interpolation(value, text))
            else:
                raise ValueError(part)
        except ValueError as error:
            raise UsageError(f"--preprocess: {part.strip()!r} is not understood; {HELP}") from error
    return _sound(made, "--preprocess")


def _from_timm(name: str) -> Preparation:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        raise DependencyError(f"timm cannot be used here: {error}") from error
    with users_code(f"timm's configuration of {name!r}", UsageError):
        found = timm.get_pretrained_cfg(name)
    if found is None:
        raise UsageError(f"timm knows no model {name!r}")
    return from_config(found.to_dict(), f"timm:{name}")


def _from_torchvision(name: str) -> Preparation:
    try:
        from torchvision.models import get_weight
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise DependencyError(f"torchvision cannot be used here: {error}") from error
    try:
        transforms = get_weight(name).transforms()
    except Exception as error:  # it asserts, and looks its names up, in several ways
        raise UsageError(f"torchvision knows no weights {name!r}: {first_line(error)}") from error
    names = ("resize_size", "crop_size", "mean", "std", "interpolation")
    config = {key: getattr(transforms, key, None) for key in names}
    config["interpolation"] = getattr(config["interpolation"], "value", None)
    return from_config(config, f"torchvision:{name}")


def _interpolation(name: str, where: str) -> str:
    if name not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        raise UsageError(f"{where}: interpolation {name!r} is not known; choose one of {known}")
    return name


def _sound(made: Preparation, where: str) -> Preparation:
    """The same. Raises UsageError for what no picture could be prepared by."""
    sides = [*(made.size if isinstance(made.size, tuple) else (made.size,)), *(made.crop or ())]
    if any(side is not None and not 1 <= side <= MOST_SIDE for side in sides):
        raise UsageError(f"{where}: a size or crop is 1 to {MOST_SIDE:,} pixels")
    if 0.0 in made.std or not all(map(math.isfinite, (*made.mean, *made.std))):
        raise UsageError(f"{where}: mean and std are finite numbers, and std is not 0")
    return made


def _numbers(config: dict[str, Any], name: str, where: str) -> tuple[float, ...]:
    """One number or several; none where there is nothing, or null."""
    value = config.get(name)
    values = () if value is None else value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(n, bool) or not isinstance(n, int | float) for n in values):
        raise UsageError(f"{where}: {name} is {value!r}, neither a number nor a list of numbers")
    return tuple(map(float, values))


def _side(number: float, where: str) -> int:
    if number != math.floor(number):
        raise UsageError(f"{where}: {number} pixels are no whole number")
    return int(number)


def _sides(text: str) -> tuple[int, int]:
    numbers = tuple(int(number) for number in text.split("x"))
    if len(numbers) > 2 or min(numbers) < 1:
        raise ValueError(text)
    return numbers[0], numbers[-1]


def _target(size: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    if isinstance(size, tuple):
        return size
    scale = size / min(height, width)
    return max(1, int(height * scale)), max(1, int(width * scale))


def _middle(pixels: Tensor, crop: tuple[int, int]) -> Tensor:
    height, width = pixels.shape[-2:]
    if crop[0] > height or crop[1] > width:
        raise UsageError(
            f"--preprocess: a crop of {crop[0]}x{crop[1]} does not fit a picture of "
            f"{height}x{width}; give a size as well"
        )
    # halves go to the even pixel, as in torchvision's CenterCrop
    top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    return pixels[..., top : top + crop[0], left : left + crop[1]]
