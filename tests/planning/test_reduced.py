"""The two global multipliers: width thins every layer, resolution sets the size of the images."""

import importlib.util
import json
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Plain, Residual, images, relative_error, rewritten, seeded
from options import grouped
from torch import nn

import sepify
from sepify.capture import capture
from sepify.cli import main
from sepify.errors import DependencyError, FidelityWarning, PlanError, UntrainedWarning, UsageError
from sepify.formats.load import load_model
from sepify.jobs.convert import ConversionRequest, convert_file
from sepify.measuring import load_report
from sepify.passes.thin_channels import ThinChannels, thinned_channels, thinning_notes
from sepify.plans.resolution import resize_images, target_size

QUICK = sepify.Refinement(steps=5, batch=16)

pytestmark = pytest.mark.filterwarnings("ignore::sepify.errors.UntrainedWarning")
needs_pruning = pytest.mark.skipif(
    importlib.util.find_spec("torch_pruning") is None, reason="needs the extra 'width'"
)


def channels(network):
    kinds = (nn.Conv2d, nn.Linear)
    return {
        n: tuple(m.weight.shape[:2]) for n, m in network.named_modules() if isinstance(m, kinds)
    }


@pytest.mark.parametrize(
    ("before", "width", "after"),
    [(32, 0.75, 24), (32, 0.25, 8), (16, 0.75, 16), (16, 0.7, 8), (10, 0.75, 8), (4, 0.5, 4)],
)
def test_the_rounding_rule(before, width, after):
    assert thinned_channels(before, width) == after


class Joined(nn.Module):
    """A residual sum, a concatenation, a depthwise convolution and a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.same = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.side = nn.Conv2d(32, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.mix = nn.Conv2d(48, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.hidden = nn.Linear(16 * 4, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.bn(self.same(x)))
        x = torch.cat([x, self.side(x)], 1)
        x = nn.functional.adaptive_avg_pool2d(self.grouped(self.mix(self.depthwise(x))), 2)
        return self.head(torch.relu(self.hidden(x.flatten(1))))


@needs_pruning
@torch.no_grad()
def test_every_layer_is_thinned_and_what_is_tied_stays_together():
    original = capture(seeded(Joined()), (images(2),)).graph_module
    thinned = rewritten(original, ThinChannels((images(2),), 0.5))
    assert channels(thinned) == {
        "stem": (16, 3),
        "same": (16, 16),
        "side": (8, 16),
        "depthwise": (24, 1),
        "mix": (16, 24),  # feeds the grouped convolution
        "grouped": (16, 4),
        "hidden": (32, 64),
        "head": (5, 32),
    }
    assert thinned(images(3)).shape == (3, 5)
    reasons = ThinChannels((images(2),), 0.5).apply(original).left_alone
    assert "fixes its channels" in reasons["grouped"]
    assert reasons["head"] == "its outputs are the network's"
    assert not [note for note in thinning_notes(reasons) if "head" in note]
    assert channels(original)["stem"] == (32, 3)


@needs_pruning
@torch.no_grad()
def test_the_channels_that_stay_are_the_large_ones_in_their_order():
    model = seeded(Plain(16))
    large = torch.tensor([1, 2, 5, 7, 8, 11, 12, 15])
    small = [i for i in range(16) if i not in large]
    model.conv1.weight[small] *= 1e-3
    model.conv2.weight[:, small] *= 1e-3
    original = capture(model, (images(2),)).graph_module
    thinned = rewritten(original, ThinChannels((images(2),), 0.5))
    assert torch.equal(thinned.conv1.weight, model.conv1.weight[large])
    assert torch.equal(thinned.bn1.running_mean, model.bn1.running_mean[large])


@needs_pruning
@torch.no_grad()
def test_channels_that_are_zero_can_go_without_a_trace():
    model = seeded(Residual(16))
    for tensor in (model.conv1.weight, model.bn1.weight, model.bn1.bias, model.bn1.running_mean):
        tensor[8:] = 0
    original = capture(model, (images(2),)).graph_module
    thinned = rewritten(original, ThinChannels((images(2),), 0.5))
    assert thinned.conv1.out_channels == 8
    assert thinned.conv2.out_channels == 16  # the output of the network is never thinned
    assert relative_error(thinned(images()), model(images())) < 1e-6


@needs_pruning
@torch.no_grad()
def test_convert_with_both_and_again_from_its_plan(tmp_path):
    model, data = seeded(Plain(32)), images(64, size=20)
    options = dict(calibration=data, refine=QUICK)
    small = sepify.convert(
        model, **grouped(options, width=0.5, resolution=0.714, style="mobilenet")
    )
    plan = small.meta["sepify"].plan
    assert (plan.style, plan.width, plan.resolution) == ("mobilenet", 0.5, (14, 14))
    assert plan["conv2"].kernel == (64, 32, 3, 3)  # the original's
    assert plan["conv2"].before.macs == 64 * 32 * 9 * 10 * 10
    assert plan["conv2"].after.macs == (16 * 9 + 16 * 32) * 7 * 7
    assert channels(small)["conv1.pointwise"] == (16, 3)
    sepify.save_plan(plan, tmp_path / "plan.json")
    again = sepify.convert(model, plan=sepify.load_plan(tmp_path / "plan.json"), **grouped(options))
    assert again.meta["sepify"].plan == plan
    for key, value in small.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@needs_pruning
def test_a_width_alone_warns_and_needs_no_more_than_an_example():
    with pytest.warns(UntrainedWarning, match="width 0.5"):
        small = sepify.convert(
            seeded(Plain(16)),
            architecture=sepify.Architecture(width=0.5),
            example_inputs=images(),
            solver=sepify.Solver(method="svd"),
        )
    assert small(images()).shape == (4, 5)


@needs_pruning
def test_a_budget_is_of_the_original():
    model, data = seeded(Plain(32)), images(64)
    small = sepify.convert(
        model,
        architecture=sepify.Architecture(width=0.5),
        budget=sepify.Budget(macs=0.2),
        calibration=data,
        solver=sepify.Solver(refine=False),
    )
    plan = small.meta["sepify"].plan
    whole = sum(decision.before.macs for decision in plan)
    assert plan.outlook.budget == "macs 0.2"
    assert sum(decision.after.macs for decision in plan) <= 0.2 * whole
    for budget in (sepify.Budget(accuracy_drop=1), sepify.Budget(latency=0.5, target="native")):
        with pytest.raises(UsageError, match="with a width or a resolution"):
            sepify.convert(
                model,
                architecture=sepify.Architecture(resolution=8),
                budget=budget,
                calibration=data,
            )


@pytest.mark.parametrize(
    ("resolution", "size"),
    [
        (0.714, (160, 320)),
        (0.857, (192, 384)),
        (160, (160, 320)),
        ((3, 5), (3, 5)),
        (1.0, (224, 448)),
    ],
)
def test_sizes(resolution, size):
    assert target_size(resolution, (images(1, size=224).repeat(1, 1, 1, 2),)) == size


def test_only_images_are_resized():
    vector, picture = torch.zeros(2, 7), images(2)
    resized = resize_images((vector, picture), (6, 6))
    assert resized[0] is vector
    assert resized[1].shape == (2, 3, 6, 6)
    assert resize_images((picture,), (12, 12))[0] is picture


FLATTENED = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 12 * 12, 5)
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(width=0), r"width 0 is no share of the channels: give one in \(0, 1\]"),
        (dict(width=1.5), "width 1.5 is no share"),
        (dict(width=float("nan")), "width nan is no share"),
        (dict(resolution=0), "resolution 0 is neither a share"),
        (dict(resolution=8.5), "resolution 8.5 is neither a share"),
        (
            dict(resolution=0.5),
            "resolution 6x6 does not fit this network: the linear layer '3' takes 2304 features "
            "and would be given 576",
        ),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(UsageError, match=message):
        sepify.convert(FLATTENED, example_inputs=images(), **grouped(options))


def test_multipliers_need_an_example():
    for options, what in ((dict(width=0.5), "a width"), (dict(resolution=0.5), "a resolution")):
        with pytest.raises(UsageError, match=f"{what} needs example inputs or calibration"):
            sepify.convert(seeded(Plain()), **grouped(options))
    flat = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(UsageError, match="a resolution is for images"):
        sepify.convert(
            flat,
            architecture=sepify.Architecture(resolution=0.5),
            example_inputs=torch.zeros(1, 4),
            solver=sepify.Solver(method="svd"),
        )


def test_without_torch_pruning_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"sepify\[width\]"):
        sepify.convert(
            seeded(Plain()),
            architecture=sepify.Architecture(width=0.5),
            example_inputs=images(),
            solver=sepify.Solver(method="svd"),
        )


@needs_pruning
def test_a_rank_that_the_thin_network_has_not(tmp_path):
    model = seeded(Plain(4))
    plan = sepify.plan(
        model, images(), rank=4, architecture=sepify.Architecture(costlier=True, width=1.0)
    )
    thin = sepify.plan(
        seeded(Plain(16)),
        images(),
        rank=9,
        architecture=sepify.Architecture(costlier=True, width=0.5),
    )
    assert [decision.form.rank for decision in thin] == [8, 9]  # of 8 outputs
    sepify.convert(model, plan=plan, solver=sepify.Solver(method="svd"))
    path = tmp_path / "plan.json"
    sepify.save_plan(thin, path)
    path.write_text(path.read_text().replace('"rank": 8', '"rank": 9'))
    with pytest.raises(PlanError, match=r"'conv1' \(line \d+ of the plan\): rank 9 is too high"):
        sepify.convert(
            seeded(Plain(16)),
            plan=sepify.load_plan(path),
            example_inputs=images(),
            solver=sepify.Solver(method="svd"),
        )


@needs_pruning
def test_the_report_is_of_each_network_at_its_own_size():
    model, data = seeded(Plain(16)), images(32, size=20)
    small = sepify.convert(
        model,
        architecture=sepify.Architecture(width=0.5, resolution=0.5, style="mobilenet"),
        example_inputs=images(1, size=20),
        solver=sepify.Solver(method="svd"),
    )
    report = sepify.compare(
        model,
        small,
        images(1, size=20),
        judging=sepify.Judging(unlabelled=data),
        timing=sepify.Timing(threads=()),
    )
    plan = small.meta["sepify"].plan
    head = 5 * 32
    assert report.before.macs == sum(decision.before.macs for decision in plan) + head
    assert report.after.macs == sum(decision.after.macs for decision in plan) + head // 2
    told = "style mobilenet, 0.5 of the width, images of 10x10"
    assert any(told in note for note in report.notes)
    assert told in str(report).replace("\n", " ").replace("  ", " ")
    assert report.fidelity.inputs == 32


@needs_pruning
def test_at_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", images(32, size=20).numpy())
    sepify.save_model(
        capture(seeded(Plain(16)), (images(1, size=20),)).graph_module,
        "model.pt",
        images(1, size=20),
    )

    def shell(*arguments):
        monkeypatch.setattr(sys, "argv", ["sepify", *arguments])
        with suppress(SystemExit), warnings.catch_warnings():
            warnings.simplefilter("always", UntrainedWarning)
            main()
        return capsys.readouterr()

    shape = ("--style", "mobilenet", "--width", "0.5", "--resolution", "0.5")
    told = shell("convert", "model.pt", "-o", "small.pt", *shape, "--calibration", "images.npy")
    assert "warning: to be trained because of style 'mobilenet' and width 0.5" in told.err
    plan = sepify.load_plan("small.plan.json")
    assert (plan.style, plan.width, plan.resolution) == ("mobilenet", 0.5, (10, 10))
    assert load_model("small.pt").inputs[0].shape == (1, 3, 10, 10)
    told = shell("report", "model.pt", "small.pt", "-o", "again.json", "--target", "none")
    assert load_report("again.json").after == load_report("small.report.json").after
    options = ("--calibration", "images.npy", "--frontier", "-o", "frontier.json")
    told = shell("plan", "model.pt", *options, *shape)
    assert "style mobilenet, width 0.5, images of 10x10" in told.out
    frontier = json.loads(Path("frontier.json").read_text())
    assert (frontier["width"], frontier["resolution"]) == (0.5, [10, 10])
    assert frontier["points"][-1]["share"] < 0.15  # of the original at full width and size


def test_nothing_changes_without_them():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FidelityWarning)
        plan = (
            sepify.convert(
                seeded(Plain()),
                architecture=sepify.Architecture(width=1.0),
                solver=sepify.Solver(method="svd"),
            )
            .meta["sepify"]
            .plan
        )
    assert (plan.width, plan.resolution) == (1.0, None)


@needs_pruning
def test_a_width_alone_is_worth_writing(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 1, groups=2)).eval()
    saved = capture(model, (images(1),)).graph_module
    sepify.save_model(saved, tmp_path / "model.pt", images(1))
    request = ConversionRequest(
        str(tmp_path / "model.pt"), tmp_path / "thin.pt", width=0.5, method="svd"
    )
    result = convert_file(request, lambda *_: None)
    assert "0 of 2 convolutions separated" in result.summary
    assert "not thinned as asked: 0: 32 of 32 channels" in result.summary
    assert tmp_path / "thin.report.html" in result.written
