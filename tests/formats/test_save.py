"""What a conversion can be saved as, and what it keeps: every form answers as the network does."""

import copy
import json
import math

import onnx
import pytest
import safetensors.torch
import torch
from nets import Plain, Residual, images, relative_error, seeded
from torch import fx, nn
from torch.nn import functional as F

import sepify
from sepify.errors import ConversionError, DependencyError, FileError, UsageError
from sepify.formats import agreement
from sepify.formats.input_note import METADATA_NAME, InputNote, read_note
from sepify.formats.load import load_model
from sepify.formats.onnx_write import onnxruntime_session
from sepify.formats.pt2_read import load_exported, noted_inputs
from sepify.formats.torchscript_read import load_torchscript

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def small():
    return sepify.convert(seeded(Residual()), rank=2, solver=sepify.Solver(method="svd"))


def run_pt(path):
    return load_torchscript(path).module


def run_pt2(path):
    return load_exported(path).module()


def run_onnx(path):
    session = onnxruntime_session(path.read_bytes())
    return lambda *inputs: session(*inputs)[0]


FORMS = {".pt": run_pt, ".pt2": run_pt2, ".onnx": run_onnx}


@pytest.mark.parametrize("suffix", FORMS)
@torch.no_grad()
def test_a_form_takes_any_batch_and_size_though_saved_on_one_image(small, suffix, tmp_path):
    path = tmp_path / f"small{suffix}"
    sepify.save_model(small, path, images(1))
    run = FORMS[suffix](path)
    for x in (images(1), images(5), images(3, size=20)):
        assert relative_error(run(x), small(x)) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_every_form_knows_its_inputs(small, tmp_path):
    wanted = InputNote(((2, 3, 12, 12),), ("float32",))
    for suffix in (".pt", ".pt2", ".onnx", ".safetensors"):
        sepify.save_model(small, tmp_path / f"small{suffix}", images(2))
    assert load_torchscript(tmp_path / "small.pt").note == wanted
    assert noted_inputs(tmp_path / "small.pt2") == wanted
    properties = onnx.load(tmp_path / "small.onnx").metadata_props
    assert {p.key: read_note(p.value) for p in properties}[METADATA_NAME] == wanted
    with safetensors.safe_open(tmp_path / "small.safetensors", "pt") as file:
        assert read_note(file.metadata()[METADATA_NAME]) == wanted


def test_inference_forms_leave_a_training_network_as_it_is(tmp_path):
    small = sepify.convert(seeded(Plain()).train(), solver=sepify.Solver(method="svd"))
    before = copy.deepcopy(small.state_dict())
    sepify.save_model(small, tmp_path / "small.pt2", images())
    assert small.training
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in before.items())
    run = load_exported(tmp_path / "small.pt2").module()
    assert relative_error(run(images()).detach(), small.eval()(images()).detach()) < 1e-5


def test_weights_need_the_plan_and_a_fresh_original(tmp_path):
    data = images(32)
    options = sepify.Refinement(steps=5, batch=16)
    small = sepify.convert(seeded(Plain()), calibration=data, solver=sepify.Solver(refine=options))
    sepify.save_model(small, tmp_path / "w.safetensors", data[:1])
    sepify.save_plan(small.meta["sepify"].plan, tmp_path / "plan.json")
    fresh = seeded(Plain(), seed=9)
    back = sepify.load_weights(fresh, tmp_path / "plan.json", tmp_path / "w.safetensors")
    assert torch.equal(back(data), small(data))
    assert back.meta["sepify"].plan == small.meta["sepify"].plan
    assert not torch.equal(fresh(data), small(data))  # the original is not changed


class Shared(nn.Module):
    """One convolution under two names, and a transposed weight, which is not contiguous."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = self.first
        self.mix = nn.Parameter(torch.randn(4, 4).t())

    def forward(self, x):
        x = torch.einsum("bchw,cd->bdhw", self.first(x), self.mix)
        return self.second(x)


def test_weights_that_are_shared_are_saved_once(tmp_path):
    model, x = seeded(Shared()), images(channels=4)
    small = sepify.convert(model, solver=sepify.Solver(method="svd"))
    sepify.save_model(small, tmp_path / "w.safetensors", x)
    back = sepify.load_weights(
        seeded(Shared(), 3), small.meta["sepify"].plan, tmp_path / "w.safetensors"
    )
    assert torch.equal(back(x), small(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), "has no 'head.bias'"),
        (lambda w: w.update(more=torch.ones(1)), "holds 'more', which the plan does not make"),
        (lambda w: w.update({"head.bias": torch.ones(9)}), r"of shape \(9,\); this model and plan"),
    ],
)
def test_weights_of_another_network_are_refused(change, message, tmp_path):
    model = seeded(Plain())
    small = sepify.convert(model, solver=sepify.Solver(method="svd"))
    sepify.save_model(small, tmp_path / "w.safetensors", images())
    weights = safetensors.torch.load_file(tmp_path / "w.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(FileError, match=message):
        sepify.load_weights(model, small.meta["sepify"].plan, tmp_path / "w.safetensors")


def test_a_file_that_is_no_safetensors(tmp_path):
    (tmp_path / "w.safetensors").write_text("hello, this is no header")
    plan = sepify.plan(seeded(Plain()))
    with pytest.raises(FileError, match=r"damaged, or not a \.safetensors file"):
        sepify.load_weights(seeded(Plain()), plan, tmp_path / "w.safetensors")


class Branching(nn.Module):
    """As a graph it has a size baked in that the network itself would refuse to change."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).reshape(x.shape[0], 4 * 10 * 10) @ torch.ones(400, 2)


def test_a_network_of_one_image_size_is_open_in_the_batch_alone(tmp_path):
    small = sepify.convert(seeded(Branching()), solver=sepify.Solver(method="svd"))
    told = sepify.save_model(small, tmp_path / "small.pt2", images())
    assert told == "torch.export, any batch size"
    run = load_exported(tmp_path / "small.pt2").module()
    assert torch.equal(run(images(7)), small(images(7)))


class Rounding(nn.Module):
    """Rounds half of an image size up: torch.export's file format has no operator for it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)[:, :, : math.ceil(x.shape[2] / 2)]


def test_what_a_pt2_file_cannot_hold_of_open_sizes_is_saved_with_fewer_open(tmp_path):
    small = sepify.convert(
        seeded(Rounding()), example_inputs=images(), solver=sepify.Solver(method="svd")
    )
    assert small(images(size=17)).shape[2] == 9  # the network itself is open in the size
    told = sepify.save_model(small, tmp_path / "small.pt2", images())
    assert told == "torch.export, any batch size"
    run = load_exported(tmp_path / "small.pt2").module()
    assert torch.equal(run(images(7)), small(images(7)))


class Untyped(nn.Module):
    """Python that torch.fx leaves alone and torch.jit.script refuses (a generator)."""

    def __init__(self, fixed):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fixed = fixed

    def forward(self, x):
        x = self.conv(x)
        return over_batch(x) if self.fixed else doubled(x)


@fx.wrap
def doubled(x):
    return sum(x for _ in range(2))


@fx.wrap
def over_batch(x):
    return x / sum(float(extent) for extent in x.shape[:1]) + sum(x for _ in range(2))


@pytest.mark.parametrize(("fixed", "told"), [(False, "any batch size"), (True, "this size alone")])
def test_a_trace_says_whether_it_holds_a_size(fixed, told, tmp_path):
    small = sepify.convert(seeded(Untyped(fixed)), solver=sepify.Solver(method="svd"))
    assert sepify.save_model(small, tmp_path / "small.pt", images()).endswith(told)


def test_forms_that_answer_otherwise_are_not_kept(small, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "sepify.formats.onnx_write.answers_in_eval",
        lambda network, inputs: [a + 1 for a in agreement.answers_in_eval(network, inputs)],
    )
    with pytest.raises(ConversionError, match="ONNX form's output 0 differs by up to 1"):
        sepify.save_model(small, tmp_path / "small.onnx", images())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([torch.ones(3)], "returns 1 values instead of 2"),
        ([torch.ones(4), 3], r"output 0 has shape \(4,\) instead of \(3,\)"),
        ([torch.ones(3).double(), 3], "output 0 is torch.float64 instead of torch.float32"),
        ([torch.tensor([1.0, 1.0, float("nan")]), 3], "output 0 has NaN or infinity in other"),
        ([torch.tensor([1.0, 1.0, 1.1]), 3], "output 0 differs by up to 0.1"),
        ([torch.ones(3), 4], "output 1 is 4 instead of 3"),
    ],
)
def test_every_difference_is_told(given, message):
    with pytest.raises(ConversionError, match=message):
        agreement.require_same("new", [torch.ones(3), 3], lambda: given, ())


def test_a_form_that_does_not_run_says_so():
    def broken(x):
        raise ValueError("no such operator\nand a long trace")

    with pytest.raises(ConversionError, match=r"does not run on inputs of \(2,\).*no such op"):
        agreement.require_same("new", [], broken, (torch.ones(2),))


def test_onnx_without_its_packages_is_refused_before_the_work(small, monkeypatch, tmp_path):
    monkeypatch.setattr("sepify.formats.table.find_spec", lambda name: None)
    with pytest.raises(
        DependencyError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'sepify\[onnx\]'"
    ):
        sepify.save_model(small, tmp_path / "small.onnx", images())
    with pytest.raises(UsageError, match="the suffix says what to write"):
        sepify.save_model(small, tmp_path / "small.keras", images())


class Spectrum(nn.Module):
    """An operator that neither script nor ONNX has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return torch.linalg.matrix_exp(F.relu(self.conv(x)))


def test_what_cannot_be_a_form_says_which_and_why(tmp_path):
    small = sepify.convert(seeded(Spectrum()), solver=sepify.Solver(method="svd"))
    with pytest.raises(ConversionError, match="cannot be saved as ONNX: .*matrix_exp"):
        sepify.save_model(small, tmp_path / "small.onnx", images())
    assert list(tmp_path.iterdir()) == []


def test_notes_of_others_count_as_none():
    assert read_note("") is None
    for text in ("[]", "{}", "no json", json.dumps({"input_shapes": [[1]], "input_dtypes": []}),
                 json.dumps({"input_shapes": [[1]], "input_dtypes": ["int4"]})):  # fmt: skip
        note = read_note(text)
        assert note is None or note == InputNote(((1,),), ("float32",))
    assert read_note('{"input_shapes": [[1, 3]]}') == InputNote(((1, 3),), ("float32",))


def test_a_pt2_file_from_elsewhere_brings_its_own_inputs(tmp_path):
    x = images(2)
    program = torch.export.export(seeded(Plain()), (x,))
    torch.export.save(program, tmp_path / "other.pt2")
    assert noted_inputs(tmp_path / "other.pt2") is None
    loaded = load_model(str(tmp_path / "other.pt2"))
    assert loaded.inputs[0].shape == (2, 3, 12, 12)
    assert relative_error(loaded.module(x).detach(), seeded(Plain())(x).detach()) < 1e-5
    with pytest.raises(AssertionError, match="captured for inputs with"):
        loaded.module(images(3))  # it was exported for two images, and says so


class Pooled(nn.Module):
    """Cells of a size that divides no other image's: open in ONNX in the batch alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return F.adaptive_avg_pool2d(self.conv(x), 6)


def test_onnx_is_open_in_what_onnxruntime_gets_right(tmp_path):
    small = sepify.convert(seeded(Pooled()), solver=sepify.Solver(method="svd"))
    told = sepify.save_model(small, tmp_path / "small.onnx", images())
    assert told == "ONNX, any batch size"
    run = run_onnx(tmp_path / "small.onnx")
    assert relative_error(run(images(6)), small(images(6)).detach()) < 1e-5


class Whole(nn.Module):
    """Left whole for what it asks of its values; its `**rest` no compiler takes."""

    def forward(self, x, **rest):
        return F.relu(x) if float(x.detach().abs().sum()) > 0 else x


class Nested(nn.Module):
    """What a trace has no container for: a dict of a tensor, a list and nothing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.whole = Whole()

    def forward(self, x):
        x = self.whole(self.conv(x))
        return {"map": x, "pooled": [x.mean((2, 3)), x.amax((2, 3))], "loss": None}


@torch.no_grad()
def test_a_trace_of_nested_outputs_returns_them_in_one_tuple(tmp_path):
    small, path = (
        sepify.convert(
            seeded(Nested()), example_inputs=images(), solver=sepify.Solver(method="svd")
        ),
        tmp_path / "small.pt",
    )
    how = sepify.save_model(small, path, images())
    assert how == "TorchScript, traced, for any batch size; its outputs in one tuple"
    answer = small(images(7))
    given = run_pt(path)(images(7))
    assert isinstance(given, tuple)
    for old, new in zip([answer["map"], *answer["pooled"]], given, strict=True):
        torch.testing.assert_close(new, old)


class Sized(nn.Module):
    """Asks for the larger and the smaller of a size and a number."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return F.adaptive_avg_pool2d(x, (max(x.shape[2] // 4, 2), min(x.shape[3], 5)))


@torch.no_grad()
def test_the_larger_of_two_sizes_is_scripted(tmp_path):
    small, path = (
        sepify.convert(
            seeded(Sized()), example_inputs=images(), solver=sepify.Solver(method="svd")
        ),
        tmp_path / "small.pt",
    )
    assert torch.sym_max in {node.target for node in small.graph.nodes}
    assert sepify.save_model(small, path, images()) == "TorchScript, scripted"
    for x in (images(2), images(3, size=20), images(1, size=4)):
        torch.testing.assert_close(run_pt(path)(x), small(x))


class Attending(nn.Module):
    """Attends within images (B, heads, T, C), or within blocks of them, with or without a mask."""

    def __init__(self, blocks, mask):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.blocks = blocks
        self.register_buffer("mask", mask)

    def forward(self, x):
        batch = x.shape[0]
        split = (batch, 4, 16, 3, 8) if self.blocks else (batch, 64, 3, 8)
        q = self.conv(x).flatten(2).transpose(1, 2).reshape(split).transpose(-3, -2)
        y = F.scaled_dot_product_attention(q, q + 1, q * 2, self.mask)
        return y.transpose(-3, -2).contiguous().view(batch, 64, 24)


@pytest.mark.parametrize(
    ("blocks", "mask"),
    [
        (False, None),
        (True, None),
        (False, torch.randn(3, 64, 64)),
        (True, torch.ones(16, 16, dtype=torch.bool).tril()),
    ],
    ids=["plain", "blocks", "added", "causal blocks"],
)
def test_attention_of_every_kind_as_onnx(blocks, mask, tmp_path):
    small = sepify.convert(
        Attending(blocks, mask).eval(), rank=1, solver=sepify.Solver(method="svd")
    )
    x = torch.randn(2, 3, 8, 8)
    sepify.save_model(small, tmp_path / "small.onnx", (x,))
    other = torch.randn(5, 3, 8, 8)
    given = run_onnx(tmp_path / "small.onnx")(other)
    torch.testing.assert_close(given, small(other), rtol=1e-4, atol=1e-4)


class Guarded(nn.Module):
    """Asks whether all of a tensor is true, by the private name that torch.export may leave."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return torch.where(torch.ops.aten._is_all_true(y < 100), y, y * 0)


def test_whether_all_is_true_as_onnx(tmp_path):
    small = sepify.convert(Guarded().eval(), rank=1, solver=sepify.Solver(method="svd"))
    x = torch.randn(2, 3, 8, 8)
    sepify.save_model(small, tmp_path / "small.onnx", (x,))
    given = run_onnx(tmp_path / "small.onnx")(x)
    torch.testing.assert_close(given, small(x), rtol=1e-4, atol=1e-4)
