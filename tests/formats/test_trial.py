"""A stranger's model is tried in a child process first: what loops, swallows memory or crashes ends
in one sentence."""

import pytest
import torch
from torch import Tensor, nn

from sepify.errors import CaptureError, InputError, UsageError
from sepify.formats import trial
from sepify.formats.input_note import InputRequest
from sepify.formats.load import load_model
from sepify.formats.trial import MEMORY, SECONDS

SHAPE = InputRequest(((1, 3, 8, 8),))


class Forever(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        while True:
            x = x + 1
        return self.conv(x)


class Greedy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(100):
            y = torch.cat([y, y])
        return self.conv(x) + y.sum()


def saved(model, path):
    torch.jit.save(torch.jit.script(model.eval()), str(path))
    return str(path)


def nested(depth):
    """Inlined, its graph has 2 to the power of `depth` convolutions."""
    return Twice(nested(depth - 1)) if depth else nn.Conv2d(3, 3, 1)


class Twice(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.inner(x)


@pytest.mark.parametrize("kind", [Forever, lambda: nested(40)])
def test_a_model_that_never_ends(kind, tmp_path, monkeypatch):
    monkeypatch.setenv(SECONDS, "1")
    monkeypatch.setenv(MEMORY, "2")
    path = saved(kind(), tmp_path / "model.pt")
    with pytest.raises(CaptureError, match=r"model\.pt .*(set SEPIFY_TRIAL_SECONDS|GIB)"):
        load_model(path, SHAPE)


def test_a_model_that_takes_all_memory(tmp_path, monkeypatch):
    monkeypatch.setenv(MEMORY, "0.5")
    path = saved(Greedy(), tmp_path / "model.pt")
    with pytest.raises(CaptureError, match=r"more than the 0\.5 GiB .* set SEPIFY_TRIAL_GIB"):
        load_model(path, SHAPE)


def test_inputs_that_nobody_has_memory_for(tmp_path):
    path = saved(nn.Conv2d(3, 4, 3), tmp_path / "model.pt")
    with pytest.raises(InputError, match="GiB of memory"):
        load_model(path, InputRequest(((1, 3, 1 << 20, 1 << 20),)))


def test_what_the_model_says_of_its_input_comes_from_the_child(tmp_path):
    path = saved(nn.Conv2d(3, 4, 3), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"does not accept the example input float32 \(1, 5, 8, 8"):
        load_model(path, InputRequest(((1, 5, 8, 8),)))


def test_a_file_is_tried_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    calls = []
    begin = trial.do_in_child
    monkeypatch.setattr(trial, "do_in_child", lambda *given: calls.append(1) or begin(*given))
    path = saved(nn.Conv2d(3, 4, 3), tmp_path / "model.pt")
    load_model(path, SHAPE)
    load_model(path, SHAPE)
    assert len(calls) == 1
    saved(nn.Conv2d(3, 5, 3), tmp_path / "model.pt")
    load_model(path, SHAPE)
    assert len(calls) == 2
    monkeypatch.setenv(SECONDS, "0")  # no trial
    load_model(path, InputRequest(((2, 3, 8, 8),)))
    assert len(calls) == 2


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "1e99"])
def test_a_limit_is_a_number(value, tmp_path, monkeypatch):
    monkeypatch.setenv(SECONDS, value)
    path = saved(nn.Conv2d(3, 4, 3), tmp_path / "model.pt")
    with pytest.raises(UsageError, match="is not a number of seconds"):
        load_model(path, SHAPE)
