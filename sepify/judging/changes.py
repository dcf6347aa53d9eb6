"""Which answers a conversion changed: by class, by pair of answers, the images it moved most."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

SHOWN_IMAGES = 12
SHOWN_PAIRS = 20
PICTURE_SIDE = 96  # pixels at most, of a picture in the report


@dataclass(frozen=True)
class ChangedImage:
    """One image: its place in the data, its label, both answers (class numbers) and the share that
    each network gave its own answer (softmax of its outputs), and `distance`, the total variation
    between the two softmax outputs, 0 to 1. `picture` is a PNG in base64, scaled to the image's own
    range; empty for inputs that are no images."""

    index: int
    label: int
    before: int
    after: int
    share_before: float
    share_after: float
    distance: float
    picture: str


@dataclass(frozen=True)
class ChangedPair:
    """How many images the original answered with class `before` and the converted network with
    class `after`, and how many of those either got right."""

    before: int
    after: int
    images: int
    lost: int
    gained: int


@dataclass(frozen=True)
class ClassCount:
    """One label: how many images carry it, and how many of them each network gets right."""

    label: int
    images: int
    before: int
    after: int


@dataclass(frozen=True)
class Changes:
    """What became of the answers on labelled images. `changed` counts the images with another
    top-1 answer; `pairs` are the most frequent of those, `most` the images whose softmax output
    moved most, furthest first; `classes` every label that occurs. `names` are those of the classes,
    empty where nobody gave them."""

    names: tuple[str, ...]
    images: int
    changed: int
    pairs: tuple[ChangedPair, ...]
    classes: tuple[ClassCount, ...]
    most: tuple[ChangedImage, ...]


@dataclass
class ChangeTally:
    """Sums over batches of answers; of the images only those that moved most are kept."""

    names: tuple[str, ...] = ()
    images: int = 0
    counts: Counter[tuple[int, int, int]] = field(default_factory=Counter)  # label, before, after
    most: list[tuple[float, ChangedImage, Tensor]] = field(default_factory=list)

    def add(self, images: Tensor, labels: Tensor, before: Tensor, after: Tensor) -> None:
        """Count in images (n, ...), labels (n,) and both networks' class scores (n, classes)."""
        old, new = before.double().softmax(1), after.double().softmax(1)
        distances = (old - new).abs().sum(1) / 2
        answers = torch.stack((labels.long(), old.argmax(1), new.argmax(1)), 1).tolist()
        self.counts.update((label, b, a) for label, b, a in answers)
        furthest = distances.topk(min(SHOWN_IMAGES, len(distances)))
        for distance, place in zip(
            furthest.values.tolist(), furthest.indices.tolist(), strict=True
        ):
            label, b, a = answers[place]
            shares = float(old[place, b]), float(new[place, a])
            index = self.images + place
            image = ChangedImage(index, label, b, a, *shares, distance, picture="")
            self.most.append((distance, image, images[place].clone()))
        self.most.sort(key=lambda entry: (-entry[0], entry[1].index))
        del self.most[SHOWN_IMAGES:]
        self.images += len(labels)

    def result(self) -> Changes:
        """Return what the report shows of them."""
        pairs: Counter[tuple[int, int]] = Counter()
        lost: Counter[tuple[int, int]] = Counter()
        gained: Counter[tuple[int, int]] = Counter()
        images: Counter[int] = Counter()
        right_before: Counter[int] = Counter()
        right_after: Counter[int] = Counter()
        for (label, before, after), count in self.counts.items():
            images[label] += count
            right_before[label] += count * (label == before)
            right_after[label] += count * (label == after)
            if before != after:
                pairs[before, after] += count
                lost[before, after] += count * (label == before)
                gained[before, after] += count * (label == after)
        ranked = sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0]))
        return Changes(
            names=self.names,
            images=self.images,
            changed=sum(pairs.values()),
            pairs=tuple(
                ChangedPair(*pair, count, lost[pair], gained[pair])
                for pair, count in ranked[:SHOWN_PAIRS]
            ),
            classes=tuple(
                ClassCount(label, images[label], right_before[label], right_after[label])
                for label in sorted(images)
            ),
            most=tuple(_with_picture(image, pixels) for _, image, pixels in self.most),
        )


def _with_picture(image: ChangedImage, pixels: Tensor) -> ChangedImage:
    return replace(image, picture=png_base64(pixels))


def png_base64(image: Tensor) -> str:
    """Encode an image (C, H, W) as a PNG in base64, empty for a tensor of other dimensions.

    Its least value is black, its greatest white, and no side is longer than PICTURE_SIDE. Three
    channels are colours; of any other number the first is shown in grey.
    """
    if image.dim() != 3 or image.numel() == 0:
        return ""
    from PIL import Image

    shown = (image if image.shape[0] == 3 else image[:1]).detach().float().cpu()
    low, high = shown.min(), shown.max()
    scaled = (shown - low) / (high - low).clamp_min(1e-12)
    array = (255 * scaled).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
