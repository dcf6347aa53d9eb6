"""What a person names at a shell, and what is made of it."""

import pytest
import torch
from nets import Plain, images, seeded
from torch import Tensor, nn

from sepify.errors import CaptureError, FileError, UsageError
from sepify.formats.input_note import InputNote, InputRequest, parse_dtype, parse_shape
from sepify.formats.load import load_model
from sepify.formats.loaded import random_inputs
from sepify.formats.torchscript_write import save_torchscript

pytestmark = pytest.mark.filterwarnings("ignore")


def a_tensor():
    return torch.zeros(3)


def an_identity():
    return nn.Identity()


def a_failure():
    raise RuntimeError("no weights here")


def named(name, monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.path.parent))
    return f"{__name__}:{name}"


def test_inputs_are_the_same_every_time_and_of_their_types():
    note = InputNote(((2, 3), (4,), (5,)), ("float64", "int64", "bool"))
    first, second = random_inputs(note), random_inputs(note)
    assert [tensor.dtype for tensor in first] == [torch.float64, torch.int64, torch.bool]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[1].min() >= 0
    assert first[1].max() <= 1


class Summed(nn.Module):
    """Takes one input or two, of any type."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x.sum() if y is None else x.sum() + y.sum()


def test_what_is_asked_for_overrides_what_the_file_notes(tmp_path):
    path = tmp_path / "model.pt"
    save_torchscript(torch.jit.script(Summed().eval()), path, [(1, 3, 12, 12)], ["float32"])
    assert load_model(str(path)).inputs[0].shape == (1, 3, 12, 12)
    loaded = load_model(str(path), InputRequest(((2, 3, 9, 9),), ("float16",)))
    assert loaded.inputs[0].shape == (2, 3, 9, 9)
    assert loaded.inputs[0].dtype == torch.float16
    both = load_model(str(path), InputRequest(((2, 3, 9, 9), (2, 4))))
    assert [tensor.dtype for tensor in both.inputs] == [torch.float32] * 2
    with pytest.raises(UsageError, match="2 types for 1 inputs: give --dtype once, or once an"):
        load_model(str(path), InputRequest(((1, 3, 9, 9),), ("float16", "float32")))


def test_a_factory(monkeypatch, request):
    shape = InputRequest(((1, 3),))
    identity = load_model(named("an_identity", monkeypatch, request), shape)
    assert isinstance(identity.module, nn.Identity)
    assert identity.size is None
    for name, error, message in [
        ("a_tensor", UsageError, r"test_load:a_tensor gave a Tensor, not an nn\.Module"),
        ("a_failure", CaptureError, r"a_failure\(\) failed: RuntimeError: no weights here"),
        ("nothing", UsageError, "test_load' has no 'nothing'"),
    ]:
        with pytest.raises(error, match=message):
            load_model(named(name, monkeypatch, request), shape)


def test_words():
    assert parse_shape("1x3x8x8") == (1, 3, 8, 8)
    assert parse_dtype("bfloat16") == "bfloat16"
    for text in ("", "1,,3", "0,3", "a"):
        with pytest.raises(UsageError, match="is not like 1,3,224,224"):
            parse_shape(text)
    with pytest.raises(UsageError, match="choose one of float32, float64, float16"):
        parse_dtype("complex64")


def test_a_truncated_pt2_file_is_called_so(tmp_path):
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(seeded(Plain()), (images(2),)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="truncated"):
        load_model(str(path))
