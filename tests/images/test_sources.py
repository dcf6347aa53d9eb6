"""What --data and --calibration take, and how each kind is refused when it does not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sepify.errors import DependencyError, FileError, InputError, SepifyError, UsageError
from sepify.images import (
    LabelledImages,
    Preparation,
    open_labelled,
    read_images,
    read_labelled,
    read_preparation,
)

SHAPE = (1, 3, 8, 6)


def picture(path: Path, value: int, size: tuple[int, int] = (12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255 - value)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, sorted by name: 3 cats of value 10, 11, 12, 2 dogs of 50, 51."""
    for name, values in (("cat", (10, 11, 12)), ("dog", (50, 51))):
        for value in values:
            picture(tmp_path / "set" / name / f"{value}.png", value)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path / "set"


def test_a_folder_of_classes(folder: Path) -> None:
    labelled = open_labelled(folder, shape=SHAPE)
    assert isinstance(labelled, LabelledImages)
    assert labelled.names == ("cat", "dog")
    ((images, labels),) = labelled
    assert images.shape == (5, 3, 8, 6)
    assert labels.tolist() == [0, 0, 0, 1, 1]
    torch.testing.assert_close(images[:, 0, 0, 0] * 255, torch.tensor([10.0, 11, 12, 50, 51]))
    assert len(list(labelled)) == len(list(labelled)) == 1  # as often as it is asked for
    sample, truth = labelled.sample(2)
    assert len(sample) == 2
    assert truth.tolist() == [0, 1]  # evenly spread over the sorted classes


def test_class_folders_that_are_numbers_are_those_numbers(tmp_path: Path) -> None:
    for name in ("0", "2", "10"):
        picture(tmp_path / name / "x.png", int(name))
    _, labels = read_labelled(tmp_path, shape=SHAPE)
    assert sorted(labels.tolist()) == [0, 2, 10]


def test_a_folder_of_bare_pictures_calibrates_but_has_no_labels(tmp_path: Path) -> None:
    for value in range(7):
        picture(tmp_path / f"{value}.jpg", value)
    assert read_images(tmp_path, shape=SHAPE, most=3).shape == (3, 3, 8, 6)
    with pytest.raises(InputError, match="has no labels: give one folder a class"):
        open_labelled(tmp_path, shape=SHAPE)


def test_arrays_are_taken_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(70, 3, 8, 6))
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(70, dtype=np.uint8))
    assert torch.equal(read_images(tmp_path / "x.npy"), torch.from_numpy(images).float())
    assert len(read_images(tmp_path / "x.npz", most=3)) == 70
    got, labels = read_labelled(tmp_path / "x.npz")
    assert torch.equal(got, torch.from_numpy(images).float())
    assert labels.tolist() == list(range(70))
    masks = np.random.default_rng(0).random((70, 1, 8, 6), dtype=np.float32)
    np.savez(tmp_path / "m.npz", images=images, labels=masks)
    _, targets = read_labelled(tmp_path / "m.npz")
    assert torch.equal(targets, torch.from_numpy(masks))
    with pytest.raises(UsageError, match="--preprocess is for pictures"):
        read_images(tmp_path / "x.npy", Preparation(size=8))


def test_a_function_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_here.py").write_text(
        "import torch\n"
        "def pair(): return torch.ones(4, 3, 8, 6), torch.arange(4)\n"
        "def batches(): return [(torch.ones(2, 3, 8, 6), torch.arange(2))] * 3\n"
        "def broken(): raise RuntimeError('no disk')\n"
        "def number(): return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    images, labels = read_labelled("mine_here:pair")
    assert images.shape == (4, 3, 8, 6)
    assert labels.tolist() == [0, 1, 2, 3]
    assert read_images("mine_here:batches", most=5).shape == (5, 3, 8, 6)
    assert len(read_labelled("mine_here:batches")[1]) == 6
    for name, message in (
        ("broken", "mine_here:broken.. failed: RuntimeError: no disk"),
        ("number", "gave a int"),
        ("nothing", "'mine_here' has no 'nothing'"),
    ):
        with pytest.raises(SepifyError, match=message):
            read_images(f"mine_here:{name}")
    with pytest.raises(UsageError, match="cannot import 'no_such_module'"):
        read_images("no_such_module:x")


def test_a_hugging_face_dataset_on_disk(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'sepify[datasets]'")
    made = datasets.Dataset.from_dict(
        {"img": [str(p) for p in sorted(folder.rglob("*.png"))], "y": [0, 0, 0, 1, 1]},
        features=datasets.Features(
            {"img": datasets.Image(), "y": datasets.ClassLabel(names=["cat", "dog"])}
        ),
    )
    made.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": made, "extra": made}).save_to_disk(str(tmp_path / "many"))
    labelled = open_labelled(tmp_path / "one", shape=SHAPE)
    assert isinstance(labelled, LabelledImages)
    assert labelled.names == ("cat", "dog")
    ((images, labels),) = labelled
    assert labels.tolist() == [0, 0, 0, 1, 1]
    torch.testing.assert_close(images[:, 0, 0, 0] * 255, torch.tensor([10.0, 11, 12, 50, 51]))
    assert read_images(f"{tmp_path / 'many'}#train", shape=SHAPE).shape == (5, 3, 8, 6)
    with pytest.raises(UsageError, match="has splits train, extra; name one"):
        read_images(tmp_path / "many", shape=SHAPE)


def test_a_hugging_face_dataset_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DependencyError, match=r"pip install 'sepify\[datasets\]'"):
        read_images(tmp_path)


def test_what_is_no_data_is_refused_with_what_would_be(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("1,2")
    np.savez(tmp_path / "short.npz", images=np.zeros((3, 1, 2, 2)), labels=np.zeros(2, int))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    (folder / "cat" / "torn.png").write_bytes(b"\x89PNG")
    for spec, kind, message in (
        (tmp_path / "none", FileError, "no such file or folder"),
        (tmp_path / "empty", FileError, "holds no pictures"),
        (tmp_path / "x.csv", UsageError, "images are a folder with one folder"),
        (tmp_path / "short.npz", InputError, "3 images but 2 labels"),
        (tmp_path / "words.npy", InputError, "is no batch of images"),
        (folder, FileError, "torn.png is damaged, or not a picture"),
    ):
        with pytest.raises(kind, match=message):
            read_images(spec, shape=SHAPE)
    with pytest.raises(UsageError, match="say how pictures are prepared"):
        read_images(folder)
    with pytest.raises(UsageError, match="do not fit an input of shape"):
        read_images(folder, shape=(1, 5))


def test_pictures_of_different_sizes_need_a_size(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 1, (10, 10))
    picture(tmp_path / "b.png", 1, (12, 10))
    with pytest.raises(UsageError, match="different sizes"):
        read_images(tmp_path, Preparation(), SHAPE)
    assert read_images(tmp_path, Preparation(crop=(10, 10)), SHAPE).shape == (2, 3, 10, 10)


def test_preparation_in_words() -> None:
    made = read_preparation("size=256,crop=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225")
    assert made == Preparation(256, (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert read_preparation("size=32x48,interpolation=bicubic") == Preparation(
        (32, 48), interpolation="bicubic"
    )
    for text, message in (
        ("size", "'size' is not understood"),
        ("size=big", "'size=big' is not understood"),
        ("colour=red", "'colour=red' is not understood"),
        ("std=0", "std is not 0"),
        ("interpolation=magic", "choose one of nearest"),
    ):
        with pytest.raises(UsageError, match=message):
            read_preparation(text)


def test_preparation_from_configs(tmp_path: Path) -> None:
    timm = tmp_path / "timm.json"
    timm.write_text(
        '{"architecture": "x", "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.875, '
        '"interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}}'
    )
    vision = tmp_path / "vision.json"
    vision.write_text(
        '{"resize_size": [256], "crop_size": [224], "interpolation": "InterpolationMode.BILINEAR", '
        '"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}'
    )
    colours = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}
    assert read_preparation(str(timm)) == Preparation(
        256, (224, 224), interpolation="bicubic", **colours
    )
    assert read_preparation(str(vision)) == Preparation(256, (224, 224), **colours)
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(UsageError, match="says nothing of size"):
        read_preparation(str(tmp_path / "other.json"))


def test_preparation_of_a_timm_model() -> None:
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        with pytest.raises(DependencyError, match="timm cannot be used here"):
            read_preparation("timm:resnet18")
        pytest.skip(f"timm cannot be used here: {error}")
    made = read_preparation("timm:resnet18")
    assert made.crop == (224, 224)
    assert made.mean == pytest.approx((0.485, 0.456, 0.406))
    with pytest.raises(UsageError, match="timm knows no model"):
        read_preparation("timm:resnet18000")


def test_preparation_is_what_torchvision_would_do(tmp_path: Path) -> None:
    """Resize of the shorter side, centre crop and normalisation, by their definitions."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    made = Preparation(20, (16, 12), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    got = made.of_picture(Image.fromarray(pixels), 3)
    resized = np.array(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR))
    cropped = resized[2:18, 9:21].astype(np.float64).transpose(2, 0, 1) / 255
    mean, std = np.array(made.mean)[:, None, None], np.array(made.std)[:, None, None]
    np.testing.assert_allclose(got.numpy(), (cropped - mean) / std, atol=1e-4)
    assert Preparation(size=8).of_picture(Image.fromarray(pixels), 1).shape == (1, 8, 12)
    with pytest.raises(UsageError, match="3 values of mean for"):
        made.of_picture(Image.fromarray(pixels), 1)
    with pytest.raises(UsageError, match="does not fit a picture"):
        Preparation(crop=(99, 99)).of_picture(Image.fromarray(pixels), 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 3, 8, 8), np.uint8), r"holds uint8, but the network reads float32: .*/ 255"),
        (np.zeros((20, 3, 8, 8), np.int64), r"holds int64, but the network reads float32"),
        (np.zeros((20, 8, 8, 3), np.float32), r"images of \(8, 8, 3\); the channels come second"),
    ],
)
def test_arrays_that_nobody_prepared_are_refused(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", images=array, labels=np.zeros(20, np.int64))
    for read, name in ((read_images, "x.npy"), (read_images, "x.npz"), (read_labelled, "x.npz")):
        with pytest.raises(InputError, match=message):
            read(tmp_path / name, None, (1, 3, 8, 8))
