"""Where images come from: a folder, arrays, a dataset on disk, a function of the user's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from sepify.errors import DependencyError, FileError, InputError, UsageError
from sepify.faults import reading, users_code, users_items
from sepify.process.user_modules import import_named, names_a_function
from sepify.storage.arrays import read_array, read_arrays
from sepify.storage.pictures import read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
HELP = (
    "images are a folder with one folder of pictures a class, an .npz or .npy file, a Hugging Face "
    "dataset on disk, or module:function"
)


@dataclass(frozen=True)
class Source:
    """Images by number, 0 to `count`. `picture` gives a Pillow image that is still to be prepared,
    `arrays` tensors (k, C, H, W) as the network takes them: one of the two is there. `labels` gives
    class numbers, or targets (k, ...); None for images without. `names` are those of the classes.
    """

    where: str
    count: int
    picture: Callable[[int], Image] | None = None
    arrays: Callable[[Sequence[int]], Tensor] | None = None
    labels: Callable[[Sequence[int]], Tensor] | None = None
    names: tuple[str, ...] = ()
    given: Tensor | None = (
        None  # of `arrays`, one image (1, C, H, W) in the type that it is stored in
    )


def open_source(spec: str | Path) -> Source | Iterable[Any]:
    """What `spec` names: a Source, or, from a user's function, batches of its own.

    Raises FileError, InputError, UsageError, or DependencyError where `datasets` is missing.
    """
    text = str(spec)
    if names_a_function(text):
        return _from_function(text)
    place, _, split = text.partition("#")
    path = Path(place)
    if path.is_dir():
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            return _from_hugging_face(path, split)
        return _from_folder(path)
    if path.suffix == ".npy":
        return _from_arrays(text, _images(read_array(path), text), None)
    if path.suffix == ".npz":
        given = read_arrays(path, ["images"], optional=["labels"])
        with reading(path, "an .npz file of images"):
            return _from_arrays(text, _images(given["images"], text), given.get("labels"))
    if not path.exists():
        raise FileError(f"no such file or folder: {path}")
    raise UsageError(f"{path}: {HELP}")


def _images(array: Any, where: str) -> Tensor:
    if array.ndim < 2 or array.dtype.kind not in "fiub":
        raise InputError(f"{where}: {array.dtype} of shape {array.shape} is no batch of images")
    return torch.from_numpy(array)


def _from_arrays(where: str, images: Tensor, labels: Any) -> Source:
    targets, names = (None, ()) if labels is None else _targets(labels, len(images), where)
    return Source(
        where,
        len(images),
        arrays=lambda numbers: images[_slice(numbers)].float(),
        labels=None if targets is None else lambda numbers: _whole(targets[_slice(numbers)]),
        names=names,
        given=images[:1],
    )


def _targets(labels: Any, count: int, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as a tensor, and the names of the classes: words are numbered as folders are."""
    if labels.ndim == 0 or len(labels) != count:
        given = "one label alone" if labels.ndim == 0 else f"{len(labels)} labels"
        raise InputError(f"{where}: {count} images but {given}: each image needs one label")
    if labels.dtype.kind not in "US":
        return torch.from_numpy(labels), ()
    if labels.ndim != 1:
        raise InputError(f"{where}: labels of shape {labels.shape} are text: one word an image")
    text = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
    names, numbers = np.unique(text, return_inverse=True)
    if all(name.isdecimal() for name in names):
        return torch.tensor([int(name) for name in names])[torch.from_numpy(numbers)], ()
    return torch.from_numpy(numbers), tuple(map(str, names))


def _slice(numbers: Sequence[int]) -> Any:
    return slice(numbers.start, numbers.stop) if isinstance(numbers, range) else list(numbers)


def _whole(labels: Tensor) -> Tensor:
    """Class numbers of any width as int64; targets that are no whole numbers as float32."""
    return labels.float() if labels.is_floating_point() else labels.long()


def _from_folder(folder: Path) -> Source:
    """One folder a class, in torchvision's order (sorted by name), except that names that are all
    numbers are those numbers; pictures in the folder itself have no labels."""
    with reading(folder, "a folder of pictures"):
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        found = [(path, n) for n, place in enumerate(classes) for path in _pictures(place)]
        names = tuple(place.name for place in classes)
        if not found:
            found, names = [(path, 0) for path in _pictures(folder)], ()
    if not found:
        raise FileError(f"{folder} holds no pictures ({', '.join(SUFFIXES[:4])}, ...); {HELP}")
    numbered = bool(names) and all(name.isdecimal() for name in names)

    def labels(numbers: Sequence[int]) -> Tensor:
        chosen = (found[number][1] for number in numbers)
        return torch.tensor([int(names[c]) if numbered else c for c in chosen])

    return Source(
        str(folder),
        len(found),
        picture=lambda number: read_picture(found[number][0]),
        labels=labels if names else None,
        names=() if numbered else names,
    )


def _pictures(folder: Path) -> list[str]:
    """As text: a folder may hold hundreds of thousands. Raises OSError for one that cannot be
    looked into."""
    found = [
        str(Path(place, name))
        for place, _, names in os.walk(folder, onerror=_raise)
        for name in names
        if name.lower().endswith(SUFFIXES)
    ]
    return sorted(found, key=lambda path: path.split("/"))


def _raise(error: OSError) -> NoReturn:
    raise error


def _from_hugging_face(folder: Path, split: str) -> Source:
    """A dataset that `save_to_disk` wrote: its column of images, and its class labels if any."""
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            f"{folder} is a Hugging Face dataset; reading it needs: pip install 'sepify[datasets]'"
        ) from error
    with reading(folder, "a dataset of Hugging Face"):
        loaded = datasets.load_from_disk(str(folder))
        if isinstance(loaded, datasets.DatasetDict):
            split = split or next((s for s in ("test", "validation") if s in loaded), "")
            if split not in loaded:
                known = ", ".join(map(str, loaded))
                raise UsageError(f"{folder} has splits {known}; name one: {folder}#train")
            loaded = loaded[split]
        for table in (loaded.data, loaded._indices):
            if table is not None:
                table.validate(full=True)  # pyarrow reads memory that is not the file's otherwise
        kinds = {kind: name for name, kind in _columns(loaded, datasets).items()}
        if "image" not in kinds:
            known = ", ".join(loaded.features)
            raise InputError(f"{folder} has no column of images, but {known}")
        image, label = kinds["image"], kinds.get("label")
        # as bytes: datasets itself would open any format, and whatever path or address is named
        rows = loaded.cast_column(image, datasets.Image(decode=False))
        names = tuple(map(str, loaded.features[label].names or ())) if label else ()

    def picture(number: int) -> Image:
        with reading(folder, "a dataset of Hugging Face"):
            content = rows[number][image]["bytes"]
            if content is None:
                raise FileError(f"{folder}: row {number} names a picture outside of the dataset")
        return read_picture(f"row {number} of {folder}", content)

    def labels(numbers: Sequence[int]) -> Tensor:
        with reading(folder, "a dataset of Hugging Face"):
            return torch.tensor(rows[list(numbers)][label])

    return Source(
        str(folder), len(loaded), picture=picture, labels=labels if label else None, names=names
    )


def _columns(dataset: Any, datasets: Any) -> dict[str, str]:
    """The columns that matter, by name; the first of each kind counts."""
    columns: dict[str, str] = {}
    for kind, feature in (("image", datasets.Image), ("label", datasets.ClassLabel)):
        for name, given in dataset.features.items():
            if isinstance(given, feature) and kind not in columns.values():
                columns[name] = kind
    return columns


def _from_function(spec: str) -> Source | Iterable[Any]:
    """Tensors or arrays as a Source, batches as they are."""
    named = import_named(spec)
    with users_code(f"{spec}()"):
        made = named()
    if isinstance(made, Tensor):
        return _from_arrays(spec, made, None)
    if isinstance(made, tuple) and len(made) == 2 and all(isinstance(t, Tensor) for t in made):
        return _from_arrays(spec, made[0], made[1].numpy())
    if isinstance(made, Iterable):
        return made if isinstance(made, Sized) else users_items(made, f"{spec}()")
    raise UsageError(
        f"{spec}() gave a {type(made).__name__}, not images, (images, labels) or batches of these"
    )
