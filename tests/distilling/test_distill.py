"""distill(): what comes out, what it may be given, and how the loop behaves."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from distilling.students import pictures, same, student, teacher, weights
from nets import Residual, images, seeded
from torch import fx, nn
from torch.utils.data import DataLoader, TensorDataset

import sepify
from sepify.distilling import Losses, Training, same_outputs, shift_and_mirror
from sepify.errors import DistillationWarning, InputError, UsageError

QUICK = Training(batch=32, rate=5e-3, ema=0.9)


@pytest.fixture(scope="module")
def network():
    return teacher()


@pytest.fixture(scope="module")
def small(network):
    return student(network)


@pytest.fixture(scope="module")
def taught(network, small):
    return sepify.distill(small, teacher=network, data=pictures(), epochs=4, training=QUICK)


def record(network) -> sepify.distilling.Distillation:
    return network.meta["sepify.distillation"]


@torch.no_grad()
def distance(network, other):
    x = images(64, seed=9)
    return float((network(x).softmax(1) - other(x).softmax(1)).abs().mean())


def test_the_student_comes_nearer_to_its_teacher(network, small, taught):
    done = record(taught)
    assert done.judgement.distance < 0.8 * done.start.distance
    assert distance(taught, network) < 0.95 * distance(small, network)
    assert done.matched == ("conv1", "conv2")
    assert [epoch.loss for epoch in done.epochs] == sorted(e.loss for e in done.epochs)[::-1]


def test_it_is_a_copy_in_the_same_mode_with_the_same_meta(network, small, taught):
    assert isinstance(taught, fx.GraphModule)
    assert taught.meta["sepify"].plan == small.meta["sepify"].plan
    assert taught.meta["sepify"].fidelity is None  # what was measured before does not hold any more
    assert "sepify.distillation" not in small.meta
    assert list(taught.state_dict()) == list(small.state_dict())
    assert not taught.training
    assert taught.head.weight.data_ptr() != small.head.weight.data_ptr()
    assert taught.conv1.depthwise.weight.is_contiguous()


def test_neither_student_nor_teacher_is_changed(network, small):
    before, original = weights(small), weights(network)
    network.train()
    sepify.distill(small, teacher=network, data=pictures(64), epochs=1, training=QUICK)
    assert same(weights(small), before)
    assert same(weights(network), original)
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    network.eval()


def test_the_same_seed_gives_the_same_student_and_leaves_randomness_alone(network, small, taught):
    for module in (torch, np.random, random):
        (module.manual_seed if module is torch else module.seed)(5)
    expected = [torch.rand(1).item(), np.random.rand(), random.random()]
    for module in (torch, np.random, random):
        (module.manual_seed if module is torch else module.seed)(5)
    again = sepify.distill(small, teacher=network, data=pictures(), epochs=4, training=QUICK)
    assert [torch.rand(1).item(), np.random.rand(), random.random()] == expected
    assert same(weights(again), weights(taught))
    other = sepify.distill(
        small, teacher=network, data=pictures(), epochs=4, training=replace(QUICK, seed=1)
    )
    assert not same(weights(other), weights(taught))


def test_the_best_epoch_is_kept_and_patience_ends_it(network, small):
    wild = replace(QUICK, rate=1.0, ema=None, warmup=0, patience=2)
    again = sepify.distill(small, teacher=network, data=pictures(), epochs=9, training=wild)
    done = record(again)
    assert (done.best, done.stopped, len(done.epochs)) == (0, "no better in 2 epoch(s)", 2)
    assert same(weights(again), weights(small))
    assert done.judgement == done.start


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "sgd", "rate": 0.02},
        {"ema": None},
        {"batchnorm": "frozen"},
        {"clip": None, "weight_decay": 0.0},
    ],
)
def test_other_settings_learn_too(network, small, changed):
    training = replace(QUICK, **changed)
    again = sepify.distill(small, teacher=network, data=pictures(), epochs=3, training=training)
    assert record(again).judgement.distance < record(again).start.distance
    frozen = torch.equal(again.bn1.running_var, small.bn1.running_var)
    assert frozen == (training.batchnorm == "frozen")


def test_bfloat16(network, small):
    training = replace(QUICK, mixed_precision="bf16")
    again = sepify.distill(small, teacher=network, data=pictures(), epochs=2, training=training)
    assert record(again).judgement.distance < record(again).start.distance
    assert again.head.weight.dtype == torch.float32


def test_accumulated_batches_are_one_large_batch(network, small):
    large = replace(QUICK, batch=64, batchnorm="frozen")
    parts = replace(large, batch=16, accumulate=4)
    students = [
        sepify.distill(
            small,
            teacher=network,
            data=pictures(),
            heldout=images(32, seed=9),
            epochs=2,
            training=training,
        )
        for training in (large, parts)
    ]
    for epochs in zip(*(record(s).epochs for s in students), strict=True):
        assert epochs[0].loss == pytest.approx(epochs[1].loss, rel=1e-3)
    a, b = (s.conv2.pointwise.weight for s in students)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_labels_are_learnt_where_there_are_any(network, small):
    # labels that contradict the teacher: whoever learns them leaves it
    x = pictures()
    wrong = (network(x).argmax(1) + 1) % 5
    losses = Losses(soft=0, layers=0, labels=1)
    again = sepify.distill(
        small,
        teacher=network,
        data=(x, wrong),
        heldout=(x, wrong),
        epochs=4,
        losses=losses,
        training=replace(QUICK, rate=2e-2),
    )
    epochs = record(again).epochs
    assert epochs[-1].loss < epochs[0].loss

    def hits(student):
        return int((student(x).argmax(1) == wrong).sum())

    assert hits(again) > hits(small) + 20


@pytest.mark.parametrize("kind", ["dataset", "loader", "list", "labelled loader"])
def test_forms_of_data(network, small, kind):
    x = pictures(96)
    labels = torch.arange(96) % 5
    data = {
        "dataset": TensorDataset(x),
        "loader": DataLoader(TensorDataset(x), 24, shuffle=True),
        "list": list(x.split(24)),
        "labelled loader": DataLoader(TensorDataset(x, labels), 24),
    }[kind]
    again = sepify.distill(
        small, teacher=network, data=data, heldout=images(32, seed=9), epochs=1, training=QUICK
    )
    assert record(again).judgement.distance < record(again).start.distance


def test_a_loader_without_heldout_images_judges_by_its_own_and_says_so(network, small):
    loader = DataLoader(TensorDataset(pictures(64)), 16)
    with pytest.warns(DistillationWarning, match="judged on images that it also learns from"):
        sepify.distill(small, teacher=network, data=loader, epochs=1, training=QUICK)


def test_images_set_aside_are_not_learnt_from(network, small):
    seen = []

    def augment(batch, generator):
        seen.append(batch)
        return batch

    x = pictures(160)
    training = replace(QUICK, augment=augment)
    sepify.distill(small, teacher=network, data=x, epochs=1, training=training)
    rows = {tuple(row.flatten()[:3].tolist()) for row in torch.cat(seen)}
    assert len(rows) == 128  # 20 judge, the 140 left make four whole batches
    assert rows < {tuple(row.flatten()[:3].tolist()) for row in x}


def test_augmentation_is_drawn_from_the_seed(network, small):
    drawn = []

    def augment(batch, generator):
        result = shift_and_mirror(2)(batch, generator)
        drawn.append(result)
        return result

    options = dict(teacher=network, data=pictures(64), epochs=2)
    training = replace(QUICK, augment=augment)
    first = sepify.distill(small, training=training, **options)
    second = sepify.distill(small, training=training, **options)
    assert same(weights(first), weights(second))
    half = len(drawn) // 2
    assert all(torch.equal(a, b) for a, b in zip(drawn[:half], drawn[half:], strict=True))
    assert not torch.equal(drawn[0], drawn[1])


def test_shifting_and_mirroring():
    x = torch.arange(1.0, 3 * 2 * 4 * 4 + 1).reshape(3, 2, 4, 4)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(shift_and_mirror(0, mirror=False)(x, generator), x)
    shifted = torch.cat([shift_and_mirror(1)(x, generator) for _ in range(50)])
    assert shifted.shape == (150, 2, 4, 4)
    wholes = [torch.equal(row, x[0]) for row in shifted[::3]]
    mirrors = [torch.equal(row, x[0].flip(2)) for row in shifted[::3]]
    assert 0 < sum(wholes) < 20
    assert 0 < sum(mirrors) < 20
    assert set(shifted[::3].unique().tolist()) <= {0.0, *x[0].flatten().tolist()}


def test_progress_tells_epoch_loss_and_fidelity(network, small):
    told = []
    sepify.distill(
        small,
        teacher=network,
        data=pictures(80),
        epochs=2,
        training=QUICK,
        progress=lambda *given: told.append(given),
    )
    assert [(done, total) for _, done, total in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[0][0].startswith("distilling, epoch 1/2: loss ")
    assert "agreement" in told[0][0]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x, scale):
        return self.head(self.conv(x).mean((2, 3)) * scale[:, None])


def test_several_inputs():
    network = seeded(Two())
    x, scale, labels = images(64), torch.linspace(0.5, 2, 64), torch.arange(64) % 3
    small = sepify.convert(
        network, example_inputs=(x[:2], scale[:2]), solver=sepify.Solver(method="svd")
    )
    again = sepify.distill(
        small, teacher=network, data=(x, scale, labels), epochs=2, training=QUICK
    )
    assert record(again).judgement.distance < record(again).start.distance


def test_another_task_with_a_loss_of_its_own():
    network = seeded(Residual())
    small = sepify.convert(network, solver=sepify.Solver(method="svd"))
    again = sepify.distill(
        small,
        teacher=network,
        data=images(64),
        epochs=2,
        training=QUICK,
        loss=lambda given, wanted, labels: same_outputs(given, wanted),
    )
    done = record(again)
    assert done.judgement.distance < done.start.distance
    assert done.judgement.agreement is None


def test_a_teacher_of_other_layers_teaches_by_its_outputs_and_it_is_said(network, small):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            return self.head(self.first(x).mean((2, 3)))

    with pytest.warns(DistillationWarning, match="no layer of the student can be matched"):
        again = sepify.distill(
            small, teacher=seeded(Other()), data=pictures(64), epochs=1, training=QUICK
        )
    assert record(again).matched == ()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, UsageError, "epochs=0: there is nothing to do"),
        ({"data": torch.zeros(0, 3, 12, 12)}, InputError, "as many, and some"),
        ({"data": (torch.zeros(4, 3, 12, 12), torch.zeros(3))}, InputError, r"\[3, 4\]"),
        ({"data": torch.zeros(32, 4, 12, 12)}, InputError, "reads 3 channels"),
        ({"data": (x for x in ())}, UsageError, "the generator has no length"),
        ({"data": 3}, InputError, "cannot learn from a int"),
        ({"data": [{"image": torch.zeros(2, 3, 12, 12)}]}, InputError, "a batch holds "),
        ({"student": nn.Conv2d(3, 4, 3)}, InputError, "the student is a Conv2d"),
        ({"resume": True}, UsageError, "resume=... is now checkpoint=Checkpoint"),
    ],
)
@pytest.mark.filterwarnings("ignore::sepify.errors.DistillationWarning")
def test_what_is_refused(network, small, options, error, message):
    given = {"student": small, "teacher": network, "data": pictures(64), **options}
    with pytest.raises(error, match=message):
        sepify.distill(given.pop("student"), **given)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"optimizer": "lion"}, "optimizer 'lion' is not known; choose of adamw, sgd"),
        ({"mixed_precision": "int8"}, "mixed_precision 'int8'"),
        ({"batchnorm": "fold"}, "batchnorm 'fold'"),
        ({"batch": 0}, "batch=0 is below 1"),
        ({"patience": 0}, "patience=0 is below 1"),
        ({"rate": -1.0}, "rate=-1.0 is not above 0"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"ema": 1.5}, "ema=1.5"),
    ],
)
def test_settings_that_make_no_sense(setting, message):
    with pytest.raises(UsageError, match=message):
        Training(**setting)
