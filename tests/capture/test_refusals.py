"""What cannot be captured is refused in one sentence that says what, where and what next."""

from __future__ import annotations

import re

import pytest
import torch
from capture.forms import script
from capture.networks import CASES
from torch import Tensor, nn

from sepify.capture import capture
from sepify.errors import CaptureError, InputError, SepifyError

X = torch.randn(2, 3, 16, 16)


def refusal(model: object, inputs: object = (X,), kind: type[SepifyError] = CaptureError) -> str:
    with pytest.raises(kind) as caught:
        capture(model, inputs)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Branch(Conv):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if y.sum() > 0:
            y = y * 2
        return y


class DataLoop(Conv):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        while y.abs().max() > 0.1:
            y = y / 2
        return y


class DataCount(Conv):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        for _ in range(y[y > 0].size(0)):
            y = y * 0.999
        return y


class Stateful(Conv):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.conv(x)


class Long(Conv):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        for _ in range(3000):
            y = y + 1
        return y


class Sorter(Conv):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        with torch.no_grad():
            y = y * 2
        return y * 2


class Wrapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(Conv(), Picky())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 100:
            return x * 2
        return x


@pytest.mark.parametrize("kind", [Branch, DataLoop, DataCount])
def test_scripted_control_flow_on_data_names_the_source_line(kind: type[nn.Module]) -> None:
    line = {Branch: "if y.sum() > 0:", DataLoop: "while y.abs().max()", DataCount: "for _ in"}
    told = refusal(script(kind().eval(), "scripted", (X,)))
    assert "chooses by the contents of its input" in told
    assert "test_refusals.py, line " in told
    assert line[kind] in told
    assert "torch.where" in told


def test_a_script_that_stores_into_itself() -> None:
    told = refusal(script(Stateful().eval(), "scripted", (X,)))
    assert "'calls'" in told
    assert "test_refusals.py, line " in told


def test_a_script_with_an_operator_that_no_graph_has() -> None:
    told = refusal(script(Sorter().eval(), "scripted", (X,)))
    assert "prim::" in told
    assert "is not supported" in told


def test_an_endless_loop() -> None:
    assert "more than 2000 times" in refusal(script(Long().eval(), "scripted", (X,)))


def test_a_script_that_raises_is_a_matter_of_its_input() -> None:
    class Demanding(Conv):
        def forward(self, x: Tensor) -> Tensor:
            if x.size(1) != 4:
                raise ValueError("four channels please")
            return x

    told = refusal(script(Demanding().eval(), "scripted", (X,)), kind=InputError)
    assert "float32 (2, 3, 16, 16)" in told
    assert "four channels please" in told


def test_torchscript_needs_an_example() -> None:
    told = refusal(script(Conv().eval(), "traced", (X,)), None, InputError)
    assert "example_inputs" in told
    assert "--input-shape 1,3,224,224" in told


@pytest.mark.parametrize("form", ["eager", "traced", "scripted", "scripted-frozen"])
@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((torch.randn(2, 1, 16, 16),), r"float32 \(2, 1, 16, 16\).*3 channels"),
        ((torch.randn(16, 16),), r"float32 \(16, 16\)"),
        ((X.long(),), r"int64 \(2, 3, 16, 16\)"),
        ((X, X), r"2 example inputs were given but the model takes \(x\)"),
    ],
)
def test_wrong_inputs(form: str, inputs: tuple[Tensor, ...], expected: str) -> None:
    model = Conv().eval()
    given = model if form == "eager" else script(model, form, (X,))
    assert re.search(expected, refusal(given, inputs, InputError))


def test_a_missing_input_names_the_arguments() -> None:
    model = CASES["mixed"].model()
    told = refusal(model, (X,), InputError)
    assert told.startswith("1 example input was given but the model takes (x, mask, scale)")


@pytest.mark.parametrize("inputs", [(), [], ("x",), 3, ([X],)])
def test_inputs_that_are_not_tensors(inputs: object) -> None:
    assert "tensor" in refusal(Conv(), inputs, InputError)


def test_an_untraceable_module_names_layer_line_and_remedy() -> None:
    told = refusal(Wrapping().eval(), None)
    assert "layer 'inner.1'" in told
    assert "test_refusals.py, line " in told
    assert "`if x.mean() > 100:`" in told
    assert "torch.jit.script" in told


def test_not_a_module() -> None:
    assert "cannot capture a dict" in refusal({"conv.weight": X}, kind=InputError)
    assert "ScriptFunction" in refusal(torch.jit.trace(torch.relu, X), kind=InputError)


def test_a_model_that_cannot_be_copied() -> None:
    model = Conv()
    model.stream = (n for n in range(3))  # type: ignore[assignment]
    assert "cannot be deep-copied" in refusal(model)


def test_an_error_without_a_message_is_told_by_its_type() -> None:
    class Mute(Conv):
        def __deepcopy__(self, memo: dict[int, object]) -> Mute:
            raise NotImplementedError

    assert "given: NotImplementedError" in refusal(Mute())


def test_a_model_that_counts_its_calls_on_the_python_side() -> None:
    class Alternating(Conv):
        def __init__(self) -> None:
            super().__init__()
            self.sign = 1

        def forward(self, x: Tensor) -> Tensor:
            self.sign = -self.sign
            return self.conv(x) * self.sign

    model = Alternating().eval()
    model(X)
    model(X)
    assert model.sign == 1
    with pytest.raises(CaptureError, match="writes to 'sign' in one call and reads it in the next"):
        capture(model, (X,))
    assert model.sign == 1


def test_an_output_that_ignores_the_input() -> None:
    class Constant(Conv):
        def forward(self, x: Tensor) -> int:
            return 3

    assert "does not depend on its input" in refusal(script(Constant().eval(), "scripted", (X,)))


def test_weights_that_are_not_there() -> None:
    assert "lazy" in refusal(nn.Sequential(nn.LazyConv2d(4, 3)), None)
    assert "meta device" in refusal(nn.Conv2d(3, 4, 3, device="meta"), None)
    assert "complex" in refusal(nn.Conv2d(3, 4, 3, dtype=torch.complex64), None)


def test_a_quantised_model() -> None:
    layer = torch.ao.nn.quantized.Conv2d(3, 4, 3)
    told = refusal(nn.Sequential(layer), None)
    assert "'0' is quantised" in told


@pytest.mark.parametrize("form", ["eager", "scripted"])
def test_a_model_that_needs_cuda(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(Conv):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + torch.zeros(1, device="cuda")

    model = OnGpu().eval()
    given = model if form == "eager" else script(model, form, (X,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if torch.cuda.device_count():
        return  # there the model runs
    told = refusal(given)
    assert told.startswith("the model needs CUDA")


def test_a_module_that_contains_itself() -> None:
    model = nn.Sequential(Conv(), nn.ReLU())
    model[0].parent = model
    told = refusal(model)
    assert "'0.parent' is a module that contains it (a Sequential)" in told
    shared = Conv()
    capture(nn.Sequential(shared, nn.Conv2d(4, 3, 1), shared).eval(), (X,))


def test_a_quantised_script() -> None:
    class Quantised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
            return torch.ops.quantized.add(y, y, 0.1, 0).dequantize()

    told = refusal(script(Quantised().eval(), "scripted", (X,)))
    assert "the file is quantised (operator quantized::add" in told
    assert "test_refusals.py, line " in told


def test_quantised_parameters_and_dynamic_layers() -> None:
    layer = torch.ao.nn.quantized.dynamic.Linear(3, 4)
    assert "'0' is quantised (Linear)" in refusal(nn.Sequential(layer), None)
    model = Conv()
    model.register_buffer("table", torch.quantize_per_tensor(X, 0.1, 0, torch.quint8))
    assert "'table' is quantised" in refusal(model, None)


def test_the_module_of_an_exported_program() -> None:
    program = torch.export.export(Conv().eval(), (X,))
    assert "give the torch.export.ExportedProgram itself" in refusal(program.module())
    assert capture(program).front_end == "torch-export"


def test_an_optional_argument_is_left_out_and_not_none() -> None:
    assert "leave optional arguments out" in refusal(Conv(), (X, None), InputError)
