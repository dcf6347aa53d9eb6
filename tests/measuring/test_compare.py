from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nets import Plain, images, seeded
from options import grouped
from torch import Tensor, nn

from sepify import Provenance, Timing
from sepify.errors import CompileError, InputError, UsageError
from sepify.measuring import compare
from sepify.measuring.layers import REST
from sepify.plans.costs import Cost
from sepify.plans.forms import Keep, Separate
from sepify.plans.plan import Decision, Plan
from sepify.timing.runtimes import gather, onnx_runner, torch_runner, tvm_runner


class Separated(nn.Module):
    """What `convert` makes of a 3x3 convolution, by hand."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        m, n = conv.in_channels, conv.out_channels
        self.depthwise = nn.Conv2d(m, m, 3, conv.stride, 1, groups=m, bias=False)
        self.pointwise = nn.Conv2d(m, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


def before_and_after() -> tuple[nn.Module, nn.Module]:
    before = seeded(Plain())
    after = copy.deepcopy(before)
    after.conv2 = seeded(Separated(before.conv2), seed=5)
    return before, after.eval()


def plan() -> Plan:
    kept = Decision("conv1", Keep(), "first layer", (8, 3, 3, 3), Cost(1, 216), Cost(1, 216))
    costs = Cost(16 * 8 * 9 * 36, 16 * 8 * 9 + 16), Cost((8 * 9 + 8 * 16) * 36, 8 * 9 + 8 * 16 + 16)
    separated = Decision(
        "conv2", Separate("dw-pw", 1), "asked for", (16, 8, 3, 3), *costs, 0.4, None
    )
    return Plan((kept, separated), "svd")


def untimed(*arguments: Any, **options: Any) -> Any:
    told = {name: options.pop(name) for name in ("plan", "sizes") if name in options}
    provenance = Provenance(**{"sizes": (10, 5), **told})
    given = grouped({"threads": (), "target": None, **options})
    return compare(*arguments, provenance=provenance, **given)


def test_layers_are_paired_and_add_up() -> None:
    before, after = before_and_after()
    report = untimed(before, after, images(1), plan=plan())
    rows = {row.name: row for row in report.layers}
    assert list(rows) == ["conv1", "conv2", "head", REST]
    row = rows["conv2"]
    assert (row.macs_before, row.macs_after) == (16 * 8 * 9 * 36, (8 * 9 + 8 * 16) * 36)
    assert (row.params_before, row.params_after) == (16 * 8 * 9 + 16, 8 * 9 + 8 * 16 + 16)
    assert (row.action, row.order, row.rank, row.reason) == ("separate", "dw-pw", 1, "asked for")
    assert (row.error, row.heldout_error) == (0.4, None)  # NaN never gets into a report
    assert rows["conv1"].reason == "first layer"
    assert rows["conv1"].macs_before == 8 * 3 * 9 * 144  # counted, not the plan's word
    assert rows["head"].action is None
    for quantity in ("macs", "params"):
        for side in ("before", "after"):
            total = getattr(getattr(report, side), quantity)
            assert sum(getattr(row, f"{quantity}_{side}") for row in report.layers) == total
    assert report.method == "svd"
    assert (report.before.size, report.after.size) == (10, 5)
    assert report.latency is None


def test_the_plan_is_found_on_the_converted_network() -> None:
    before, after = before_and_after()
    after.meta = {"sepify": SimpleNamespace(plan=plan())}
    assert untimed(before, after, images(1)).layers[0].reason == "first layer"
    assert untimed(before, before, images(1)).method is None


def test_torchscript_is_taken_apart_by_layer() -> None:
    before, after = before_and_after()
    script = torch.jit.trace(before, images(1)), torch.jit.trace(after, images(1))
    report = untimed(*script, images(1), plan=plan())
    modules = untimed(before, after, images(1), plan=plan())
    assert report.network == "Plain"
    assert report.before == modules.before
    macs = {row.name: (row.macs_before, row.macs_after) for row in report.layers}
    assert macs == {row.name: (row.macs_before, row.macs_after) for row in modules.layers}


def test_sizes_are_measured_where_there_are_no_files() -> None:
    before, after = before_and_after()
    report = untimed(before, after, images(1), sizes=None)
    assert report.before.stored_as == "TorchScript file"
    assert report.before.size > report.before.params * 4


class Fixed(nn.Module):
    """Answers with the class that the first pixel names; `wrong` are answered one class higher."""

    def __init__(self, wrong: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.wrong = wrong
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        named = x[:, 0, 0, 0].long()
        for value in self.wrong:
            named = torch.where(x[:, 0, 0, 1] == value, named + 1, named)
        return nn.functional.one_hot(named % 4, 4).float()


def labelled(count: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 4
    pictures = torch.zeros(count, 1, 2, 2)
    pictures[:, 0, 0, 0] = labels
    pictures[:, 0, 0, 1] = torch.arange(count)
    return pictures, labels


def loader(count: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    pictures, labels = labelled(count)
    yield from zip(pictures.split(batch), labels.split(batch), strict=True)


@pytest.mark.parametrize("batches", [False, True])
def test_accuracy_and_fidelity_on_labelled_data(batches: bool) -> None:
    data = loader(600, 7) if batches else labelled(600)
    before, after = Fixed(wrong=(3, 5)), Fixed(wrong=(5, 300, 599))
    told: list[tuple[str, int, int]] = []
    report = untimed(before, after, labelled(1)[0], data=data, progress=lambda *t: told.append(t))
    assert report.accuracy is not None
    assert report.accuracy.images == 600
    assert report.accuracy.before.value == 598 / 600
    assert report.accuracy.after.value == 597 / 600
    assert (report.accuracy.lost, report.accuracy.gained) == (2, 1)
    assert report.fidelity.inputs == 600
    assert report.fidelity.agreement is not None
    assert report.fidelity.agreement.value == 597 / 600
    assert any("may be chance" in note for note in report.notes)
    scored = [(done, total) for what, done, total in told if "scoring" in what]
    assert scored[-1] == ((86, 0) if batches else (3, 3))


def test_fidelity_without_labels() -> None:
    before, after = Fixed(), Fixed(wrong=(1, 2))
    pictures, labels = labelled(500)
    report = untimed(before, after, pictures[:1], unlabelled=pictures)
    assert report.accuracy is None
    assert report.fidelity.inputs == 500
    assert report.fidelity.agreement is not None
    assert report.fidelity.agreement.value == 498 / 500
    assert report.notes == ()
    both = untimed(before, after, pictures[:1], data=(pictures, labels), unlabelled=pictures[:50])
    assert both.fidelity.inputs == 50
    assert both.accuracy is not None
    bare = untimed(before, after, pictures[:3])
    assert bare.fidelity.inputs == 3
    assert "the 3 example inputs alone" in bare.notes[0]


def test_an_original_near_chance_is_said() -> None:
    pictures, labels = labelled(400)
    report = untimed(Fixed(), Fixed(), pictures[:1], data=(pictures, (labels + 1) % 4))
    assert "near chance for 4 classes" in report.notes[0]


PICTURES, LABELS = labelled(6)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((PICTURES[:0], LABELS[:0]), "labelled data is empty"),
        ([], "labelled data is empty"),
        ((PICTURES, LABELS[:4]), "6 images but 4 labels"),
        ((PICTURES, LABELS.float()), "class numbers"),
        ((PICTURES, LABELS + 3), "labels run from 3 to 6, but the original network knows"),
        ((PICTURES[:, 0], LABELS), "the original network does not run on inputs of shape"),
        ([PICTURES], "must be a pair of tensors"),
        (3, r"labelled data must be \(images, labels\)"),
    ],
)
def test_bad_labelled_data_is_refused_in_one_sentence(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        untimed(Fixed(), Fixed(), PICTURES[:1], data=data)
    assert "\n" not in str(caught.value)


class Broken(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.value


def test_networks_that_cannot_be_compared_are_refused() -> None:
    x = torch.ones(2, 3)
    message = r"the converted network returned NaN or infinity in 6 of 6 output values"
    with pytest.raises(InputError, match=message):
        untimed(Broken(1), Broken(float("nan")), x)
    with pytest.raises(InputError, match=r"the original network returned NaN or infinity"):
        untimed(Broken(float("inf")), Broken(1), x)
    with pytest.raises(InputError, match="not the same task"):
        untimed(nn.Linear(3, 2), nn.Linear(3, 4), x)
    with pytest.raises(InputError, match="the original network does not run on inputs of shape"):
        untimed(nn.Linear(4, 2), nn.Linear(4, 2), x)
    with pytest.raises(InputError, match="unlabelled data is empty"):
        untimed(Broken(1), Broken(1), x, unlabelled=(x, x[:1]))
    for threads in ((0,), (1.5,)):
        with pytest.raises(UsageError, match="whole numbers from 1"):
            untimed(Broken(1), Broken(1), x, threads=threads)


class FakeCompiled:
    """A compiled network as `sepify.compile` gives it, TVM's bad habit included: setting the
    threads binds the calling one to a single core."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.threads: list[int] = []

    def __call__(self, *inputs: Tensor) -> Any:
        return self.model(*inputs)

    def set_threads(self, threads: int, /) -> None:
        self.threads.append(threads)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def test_the_whole_comparison(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    before, after = before_and_after()
    before.train()
    compiled = FakeCompiled(copy.deepcopy(before).eval()), FakeCompiled(after)
    affinity = os.sched_getaffinity(0)
    threads = torch.get_num_threads()
    report = compare(
        before,
        after,
        images(1),
        provenance=Provenance(plan=plan()),
        timing=Timing(compiled=compiled, threads=(1,), seconds=0.01),
    )
    assert report.latency is not None
    assert report.latency.skipped == ()
    rows = [(row.runtime, row.threads) for row in report.latency.rows]
    assert rows == [("torch", 1), ("onnxruntime", 1), ("TVM", 1)]
    for row in report.latency.rows:
        assert row.before is not None
        assert row.after is not None
        assert row.before.runs == row.after.runs == report.latency.rounds * report.latency.repeats
        assert 0 < row.before.min <= row.before.q1 <= row.before.median <= row.before.q3
        assert row.like_for_like is not None
        assert row.over_fastest is not None
        assert row.over_fastest.low <= row.over_fastest.high
    assert len(compiled[0].threads) == len(compiled[1].threads) == 2 + report.latency.rounds
    assert torch.get_num_threads() == threads
    assert os.sched_getaffinity(0) == affinity
    assert before.training
    for name in ("report.json", "report.html"):
        report.save(tmp_path / name)
    assert max(map(len, str(report).splitlines())) <= 80


class Baked(nn.Module):
    """The right answer to one input as a constant, which some exporters make of a network."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer.detach()

    def forward(self, x: Tensor) -> Tensor:
        return self.answer


def test_a_runtime_that_fails_is_said_and_the_others_go_on() -> None:
    x = (images(1),)
    given = {"before": x, "after": x}
    before, after = before_and_after()
    models = {"before": before, "after": after}

    def refuse() -> Any:
        raise CompileError("no compiler here")

    def builders(model: nn.Module) -> dict[Any, Any]:
        return {
            "before": lambda: tvm_runner(FakeCompiled(model)),
            "after": lambda: tvm_runner(FakeCompiled(after)),
        }

    contenders, skipped = gather("TVM", {"before": refuse, "after": refuse}, models, given, (1,))
    assert contenders == []
    assert [missed.reason for missed in skipped] == ["no compiler here"]  # once
    mixed = {"before": refuse, "after": lambda: torch_runner(after)}
    contenders, skipped = gather("torch", mixed, models, given, (1, 2))
    assert [(c.which, c.threads) for c in contenders] == [("after", 1), ("after", 2)]
    assert [missed.reason for missed in skipped] == ["the original: no compiler here"]
    contenders, _ = gather("TVM", {"after": builders(after)["after"]}, models, given, (1, 2))
    for contender in contenders:
        contender.prepare()
    assert [c.threads for c in contenders] == [1, 2]
    # a runtime that answers something else is not raced, nor one that answers in another shape
    contenders, skipped = gather("TVM", builders(after), models, given, (1,))
    assert [c.which for c in contenders] == ["after"]
    assert "differs from torch's" in skipped[0].reason
    contenders, skipped = gather("TVM", builders(Baked(before(*x))), models, given, (1,))
    assert "differs from torch's" in skipped[0].reason
    contenders, skipped = gather("TVM", builders(nn.Flatten()), models, given, (1,))
    assert "other shapes" in skipped[0].reason


class NoOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.airy_ai(x)  # ONNX has no such operator


def test_onnxruntime_missing_or_unable_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    x = images(1)
    report = compare(
        NoOperator(),
        NoOperator(),
        x,
        timing=Timing(target=None, threads=(1,), seconds=0.01),
        provenance=Provenance(sizes=(1, 1)),
    )
    assert report.latency is not None
    reasons = {missed.runtime: missed.reason for missed in report.latency.skipped}
    assert reasons["onnxruntime"].startswith("the export to ONNX failed: ")
    assert "airy_ai" in reasons["onnxruntime"]
    assert "\x1b" not in reasons["onnxruntime"]
    assert "on request" in reasons["TVM"]
    assert [row.runtime for row in report.latency.rows] == ["torch"]

    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    _, skipped = gather(
        "onnxruntime",
        {side: lambda: onnx_runner(Fixed(), (x,), tmp_path) for side in ("before", "after")},
        {"before": Fixed(), "after": Fixed()},
        {"before": (x,), "after": (x,)},
        (1,),
    )
    assert [missed.reason for missed in skipped] == [
        "onnxruntime not installed: pip install 'sepify[onnx]'"
    ]
