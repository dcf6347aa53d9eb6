"""Teacher and student as one module."""

import copy
import pickle

import pytest
import torch
from distilling.students import pictures, same, student, teacher, weights
from nets import Plain, Residual, images, seeded
from torch import nn
from torch.nn import functional as F

import sepify
from sepify.distilling import DistillationPair, Losses, same_outputs, soft_targets
from sepify.errors import CaptureError, InputError, UsageError
from sepify.plans.resolution import resize_images


@pytest.fixture
def network():
    return teacher()


def test_the_loss_is_the_sum_of_its_parts(network):
    small, x = student(network), pictures(16)
    labels = torch.arange(16) % 5
    pair = DistillationPair(small, network, x, losses=Losses(soft=2, labels=0.5, layers=1))
    parts = pair.parts(x, labels=labels)
    assert list(parts) == ["soft", "labels", "layers"]
    torch.testing.assert_close(pair(x, labels=labels), sum(parts.values()))
    torch.testing.assert_close(parts["soft"], 2 * soft_targets(small(x), network(x)))
    torch.testing.assert_close(parts["labels"], 0.5 * F.cross_entropy(small(x), labels))


@pytest.mark.parametrize("order", ["dw-pw", "pw-dw"])
def test_layers_are_compared_where_the_original_puts_them_out(network, order):
    small, x = student(network, form=order), pictures(16)
    pair = DistillationPair(small, network, x, losses=Losses(soft=0, labels=0, layers_until=1))
    assert pair.matched == ("conv1", "conv2")
    given, wanted = {}, {}
    last = "pointwise" if order == "dw-pw" else "depthwise"
    for name in pair.matched:
        for module, kept in (
            (small.get_submodule(f"{name}.{last}"), given),
            (network.get_submodule(name), wanted),
        ):
            module.register_forward_hook(
                lambda _m, _x, y, kept=kept, name=name: kept.update({name: y})
            )
    small(x), network(x)
    errors = [
        (given[n] - wanted[n]).square().mean() / wanted[n].transpose(0, 1).flatten(1).var(1).mean()
        for n in pair.matched
    ]
    torch.testing.assert_close(pair(x), torch.stack(errors).mean())
    pair.set_progress(0.75)
    torch.testing.assert_close(pair(x), 0.25 * torch.stack(errors).mean())


def test_parts_can_be_switched_off(network):
    x, labels = pictures(8), torch.arange(8) % 5

    def parts(**options):
        pair = DistillationPair(student(network), network, x, losses=Losses(**options))
        return list(pair.parts(x, labels=labels))

    assert parts(soft=0) == ["labels", "layers"]
    assert parts(layers=0) == ["soft", "labels"]
    assert parts(labels=0) == ["soft", "layers"]
    assert list(DistillationPair(student(network), network, x).parts(x)) == ["soft", "layers"]


def test_labels_alone_without_labels(network):
    pair = DistillationPair(student(network), network, pictures(4), losses=Losses(soft=0, layers=0))
    with pytest.raises(UsageError, match="no part of the loss is left: give labels"):
        pair(pictures(4))


def test_only_the_student_learns_and_the_teacher_is_a_copy(network):
    network.train()
    before = weights(network)
    small = student(network)
    pair = DistillationPair(small, network, pictures(8)).train()
    assert pair.student is small
    assert all(p.requires_grad for p in network.parameters())
    optimizer = torch.optim.SGD(pair.parameters(), 0.1, weight_decay=0.1)
    start = weights(small)
    pair(pictures(8)).backward()
    optimizer.step()
    assert not same(weights(small), start)
    assert same(weights(network), before)
    assert network.training
    assert not any(p.requires_grad for p in pair.teacher.parameters())
    assert not any(module.training for module in pair.teacher.modules())
    assert [p.grad for p in network.parameters()] == [None] * len(list(network.parameters()))


def test_a_student_of_full_rank_has_nothing_to_learn(network):
    small = sepify.convert(network, rank=None)
    pair = DistillationPair(small, network, pictures(8))
    assert pair(pictures(8)).detach() < 1e-6


def test_a_convolution_called_twice_is_matched_call_by_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.conv(F.relu(self.conv(x))).mean((2, 3)))

    network = seeded(Twice())
    pair = DistillationPair(
        sepify.convert(network, solver=sepify.Solver(method="svd")), network, images(8, channels=4)
    )
    assert pair.matched == ("conv",)
    assert pair.scales.shape == (2,)


def test_it_can_be_copied_pickled_and_loaded_again(network):
    pair = DistillationPair(student(network), network, pictures(8))
    expected = pair(pictures(8))
    for again in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        torch.testing.assert_close(again(pictures(8)), expected)
        assert again.student is not pair.student
        again.student.head.bias.data.add_(torch.arange(5.0))  # shared with what is run
        assert not torch.allclose(again(pictures(8)), expected)
        again.load_state_dict(pair.state_dict())
        torch.testing.assert_close(again(pictures(8)), expected)


def test_a_loss_of_ones_own_for_other_tasks():
    network = seeded(Residual())
    small = sepify.convert(network, solver=sepify.Solver(method="svd"))
    with pytest.raises(UsageError, match=r"one row of class scores.*\(4, 8, 12, 12\).*loss="):
        DistillationPair(small, network, images())
    seen = []

    def loss(given, wanted, labels):
        seen.append(labels)
        return same_outputs(given, wanted)

    pair = DistillationPair(small, network, images(), loss=loss)
    masks = torch.zeros(4, 12, 12)
    parts = pair.parts(images(), labels=masks)
    assert list(parts) == ["task", "layers"]
    assert seen[-1] is masks
    torch.testing.assert_close(parts["task"], same_outputs(small(images()), network(images())))


class Several(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = head

    def forward(self, x):
        return self.head(self.conv(x))


class Dictionary(nn.Module):
    def forward(self, x):
        return {"scores": x.mean((2, 3))}


def test_a_teacher_whose_outputs_differ(network):
    with pytest.raises(
        InputError, match=r"the student returns \(8, 5\) and the teacher dict \['sc"
    ):
        DistillationPair(student(network), seeded(Several(Dictionary())), pictures(8))
    with pytest.raises(InputError, match=r"\(8, 5\) and the teacher \(8, 4, 12, 12\)"):
        DistillationPair(student(network), seeded(Several(nn.Identity())), pictures(8))


def test_images_that_do_not_fit(network):
    with pytest.raises(InputError, match=r"1, 12, 12"):
        DistillationPair(student(network), network, images(4, channels=1))


def _refuse(*_args):
    raise CaptureError("no graph")


def test_a_teacher_that_cannot_be_captured_teaches_by_its_outputs(network, monkeypatch):
    monkeypatch.setattr("sepify.distilling.pair.capture", _refuse)
    with pytest.raises(CaptureError, match=r"no graph; .*losses=Losses\(layers=0\)"):
        DistillationPair(student(network), network, pictures(8))
    pair = DistillationPair(student(network), network, pictures(8), losses=Losses(layers=0))
    torch.testing.assert_close(
        pair.parts(pictures(8))["soft"],
        soft_targets(pair.student(pictures(8)), network(pictures(8))),
    )


@pytest.mark.filterwarnings("ignore::sepify.errors.SepifyWarning")
def test_a_student_with_multipliers_sees_smaller_images_and_matches_what_has_the_same_shape(
    network,
):
    wide = teacher(Plain(32))
    x = pictures(64)
    small = sepify.convert(
        wide,
        calibration=x,
        solver=sepify.Solver(refine=False),
        architecture=sepify.Architecture(resolution=9),
    )
    pair = DistillationPair(small, wide, x)
    assert pair.matched == ()  # every map is smaller
    torch.testing.assert_close(
        pair.parts(x)["soft"], soft_targets(small(resize_images((x,), (9, 9))[0]), wide(x))
    )
    thin = sepify.convert(
        wide,
        calibration=x,
        solver=sepify.Solver(refine=False),
        architecture=sepify.Architecture(width=0.5),
    )
    assert thin.conv1.pointwise.out_channels == 16
    pair = DistillationPair(thin, wide, x)
    assert pair.matched == ()
    pair(x).backward()


@pytest.mark.filterwarnings("ignore::sepify.errors.SepifyWarning")
def test_a_mobilenet_block_is_compared_behind_its_pointwise_convolution(network):
    small = student(network, style="mobilenet")
    pair = DistillationPair(small, network, pictures(16))
    assert pair.matched == ("conv1", "conv2")
    assert dict(pair.learner.named_modules()).keys() >= {"conv1.depthwise", "conv1.pointwise"}
