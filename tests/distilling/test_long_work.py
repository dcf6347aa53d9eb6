"""Long work is safe: kills, full disks, data that fails, losses that are not finite."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest
import torch
from distilling.long_work import SETTINGS, train
from distilling.students import Dropping, pictures, same, student, teacher, weights
from nets import seeded
from torch.utils.data import DataLoader, TensorDataset

import sepify
from sepify.distilling import Losses, checkpoint
from sepify.errors import DistillationError, FileError, UsageError
from sepify.storage.tensors import read_state, save_state

SCRIPT = Path(__file__).with_name("long_work.py")

PLAIN = replace(SETTINGS, augment=None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The student of a run that nothing interrupts."""
    return train(tmp_path_factory.mktemp("whole") / "checkpoint")


def test_after_kill_9_in_the_middle_of_an_epoch_the_result_is_the_same(
    whole, tmp_path, environment
):
    path, output = tmp_path / "checkpoint", tmp_path / "out"
    command = [sys.executable, SCRIPT, path, output]
    killed = subprocess.run([*command, "7"], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not output.exists()
    position = read_state(path)["position"]
    assert (position["epoch"], position["batches"]) == (1, 2)  # four batches an epoch
    resumed = train(path)
    assert same(weights(resumed), weights(whole))
    done = [s.meta["sepify.distillation"] for s in (resumed, whole)]
    assert [e.loss for e in done[0].epochs] == [e.loss for e in done[1].epochs]
    assert done[0].judgement == done[1].judgement


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    path = tmp_path / "checkpoint"
    first = train(path)
    told = []
    second = train(path, progress=lambda *given: told.append(given))
    assert same(weights(first), weights(second))
    assert told == []


def test_no_checkpoint_falls_between_batches_of_one_step(tmp_path):
    training = replace(SETTINGS, batch=16, accumulate=3)  # eight batches: steps after 3, 6, 8
    expected = train(tmp_path / "whole", training=training)
    path = tmp_path / "checkpoint"
    with pytest.raises(Stop):
        train(path, training=training, progress=stop_at(13))
    assert read_state(path)["position"]["batches"] == 3
    assert same(weights(train(path, training=training)), weights(expected))


class Stop(BaseException):
    pass


def stop_at(count):
    def told(_what, done, _total):
        if done == count:
            raise Stop

    return told


def test_an_interruption_leaves_a_checkpoint_to_go_on_from(whole, tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.raises(Stop):
        train(path, progress=stop_at(4))
    assert os.listdir(tmp_path) == ["checkpoint"]
    assert same(weights(train(path)), weights(whole))


def test_a_loss_that_is_not_finite_stops_it_with_the_last_good_state_kept(tmp_path):
    path = tmp_path / "checkpoint"
    calls = []

    def loss(given, wanted, labels):
        calls.append(0)
        value = (given - wanted).square().mean()
        return value * float("nan") if len(calls) > 6 else value

    with pytest.raises(
        DistillationError, match=r"epoch 2, batch \d: the loss became nan"
    ) as caught:
        train(path, loss=loss)
    assert f"the last good state is in {path}" in str(caught.value)
    assert "the best student so far" in str(caught.value)
    states = read_state(path)["states"]
    assert all(torch.isfinite(v).all() for v in states["student"].values())
    best = caught.value.student
    assert all(torch.isfinite(v).all() for v in best.state_dict().values())
    assert best.meta["sepify"].plan.rewritten


def test_images_with_nan_in_them_are_named(tmp_path):
    x = pictures(64)
    x[40:, 0, 0, 0] = float("nan")
    with pytest.raises(DistillationError, match="the images of this batch hold NaN or infinity"):
        train(
            tmp_path / "checkpoint",
            data=x,
            heldout=pictures(16),
            training=PLAIN,
        )


class Failing(TensorDataset):
    """Raises when image 5 is asked for the third time: in epoch 2 (it judges first)."""

    asked = 0

    def __getitem__(self, index):
        self.asked += index == 5
        if self.asked == 2:
            raise OSError("the disk with the images is gone")
        return super().__getitem__(index)


def test_a_loader_that_raises_in_epoch_2(tmp_path):
    path = tmp_path / "checkpoint"
    loader = DataLoader(Failing(pictures(64)), 16, shuffle=True)
    message = r"epoch 2, batch \d: the data failed: OSError: the disk with the images is gone"
    with pytest.raises(DistillationError, match=message) as caught:
        train(path, data=loader, heldout=pictures(16))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.student is not None
    kept = read_state(path)["position"]
    assert len(kept["epochs"]) == 1
    whole_loader = DataLoader(TensorDataset(pictures(64)), 16, shuffle=True)
    resumed = train(path, data=whole_loader, heldout=pictures(16))
    undisturbed = train(tmp_path / "other", data=whole_loader, heldout=pictures(16))
    assert same(weights(resumed), weights(undisturbed))


def test_a_batch_of_another_shape(tmp_path):
    batches = [pictures(16), pictures(16)[:, :2]]
    message = r"epoch 1, batch 2: a batch of \(16, 2, 12, 12\) does not go through the networks"
    with pytest.raises(DistillationError, match=message):
        train(
            tmp_path / "checkpoint",
            data=batches,
            heldout=pictures(16),
            training=PLAIN,
        )


def test_labels_that_do_not_fit(tmp_path):
    told = r"batch 1: labels run from -1 to 9, and the networks tell 5 classes, 0 to 4 \("
    data = (pictures(64), torch.tensor([9, -1] * 32))
    with pytest.raises(DistillationError, match=told):
        train(
            tmp_path / "checkpoint",
            data=data,
            losses=Losses(layers=0),
            training=PLAIN,
        )


def test_labels_of_another_shape(tmp_path):
    data = (pictures(64), torch.zeros(64, 3))
    with pytest.raises(DistillationError, match="does not go through the networks"):
        train(
            tmp_path / "checkpoint",
            data=data,
            losses=Losses(layers=0),
            training=PLAIN,
        )


def test_a_full_disk_in_mid_checkpoint_leaves_the_old_one(tmp_path, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full to play a full disk")
    path = tmp_path / "checkpoint"
    written = []

    def save(state, where):
        written.append(where)
        if len(written) < 3:
            return save_state(state, where)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", lambda *_: FileIO("/dev/full", "w"))
            return save_state(state, where)

    monkeypatch.setattr(checkpoint, "save_state", save)
    with pytest.raises(FileError, match=r"cannot write .*checkpoint"):
        train(path)
    assert len(written) == 3
    assert os.listdir(tmp_path) == ["checkpoint"]
    assert read_state(path)["position"]["batches"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 5}, "epochs was 4 and is 5"),
        ({"losses": Losses(temperature=2)}, r"temperature was 3\.0 and is 2"),
        ({"training": replace(SETTINGS, seed=1)}, "seed was 0 and is 1"),
        ({"training": replace(SETTINGS, augment=None)}, "augment was 'shift_and_mirror"),
        ({"data": pictures(96)}, "batches an epoch was 4 and is 2"),
        ({"teacher": seeded(Dropping(), 3)}, "its teacher has other weights"),
        ({"student": 2}, r"its plan is another one: 'conv1\.depthwise\.weight' is \(3, 1, 3, 3\) "),
        ({"resume": False}, "is there already: resume it, or remove it"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, options, message):
    path = tmp_path / "checkpoint"
    with pytest.raises(Stop):
        train(path, progress=stop_at(2))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=message):
        if "student" in options:
            network = teacher(Dropping())
            sepify.distill(
                student(network, rank=2),
                teacher=network,
                data=pictures(160),
                epochs=4,
                training=SETTINGS,
                checkpoint=sepify.Checkpoint(path, resume=True),
            )
        else:
            train(path, **options)
    assert path.read_bytes() == before


class Evil:
    def __reduce__(self):
        return (os.system, ("touch ran",))


def test_files_that_are_no_checkpoint_and_strangers_pickles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content, message in (
        (lambda p: p.write_text("x"), "no checkpoint"),
        (lambda p: torch.save({"a": Evil()}, p), "holds a pickled Python object"),
        (lambda p: save_state({"a": 1}, p), "not a checkpoint of a distillation"),
        (lambda p: save_state({"format": "sepify-distillation", "version": 9}, p), "of version 9"),
    ):
        content(Path("checkpoint"))
        with pytest.raises(FileError, match=message):
            train(Path("checkpoint"))
    assert os.listdir() == ["checkpoint"]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        train(tmp_path / "file" / "checkpoint")
