"""Odd numbers: each kind of model, of images and of callers, and what must come of it."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from nets import Plain, Residual, images, seeded
from options import grouped
from torch import Tensor, fx, nn

import sepify
from sepify.errors import CalibrationWarning, FidelityWarning, InputError, SepifyError
from sepify.plans.file import plan_to_dict

X = images(32, size=8)
PIXELS = (X * 40 + 128).clamp(0, 255).to(torch.uint8)
FEW_STEPS = sepify.Refinement(steps=2)


def plain(change: Callable[[Plain], object] = lambda model: None) -> nn.Module:
    model = seeded(Plain(4))
    with torch.no_grad():
        change(model)
    return model


def convert(model: nn.Module, calibration: Any, **options: Any) -> fx.GraphModule:
    return sepify.convert(
        model, calibration=calibration, **grouped({"refine": FEW_STEPS, **options})
    )


class ReadsPixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float() / 255)


def dead(model: Plain) -> None:
    model.bn1.weight[:2] = 0
    model.bn1.bias[:2] = -1


def without_variance(model: Plain) -> None:
    model.bn1.running_var.zero_()
    model.bn1.eps = 0.0


def scaled(factor: float) -> nn.Module:
    return plain(lambda model: model.conv2.weight.mul_(factor))


def one_channel_of(value: float) -> Tensor:
    x = X.clone()
    x[:, 1] = value
    return x


def in_inference_mode(make: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return make()


def under_autocast() -> fx.GraphModule:
    with torch.autocast("cpu", torch.bfloat16):
        return convert(plain(), X)


def with_default_double() -> fx.GraphModule:
    model = plain()
    torch.set_default_dtype(torch.float64)
    try:
        return convert(model, X)
    finally:
        torch.set_default_dtype(torch.float32)


CONVERTED = {
    "weights of 1e30": lambda: convert(scaled(1e30), X),
    "weights of 1e-38": lambda: convert(scaled(1e-38), X),
    "denormal weights": lambda: convert(scaled(1e-44), X),
    "zero weights": lambda: convert(scaled(0.0), X),
    "dead channels": lambda: convert(plain(dead), X),
    "images of 1e30": lambda: convert(plain(), X * 1e30),
    "images of 1e30, nothing before them": lambda: convert(seeded(Residual(4)), X * 1e30),
    "images of 1e30 on little memory": lambda: convert(
        plain(), X * 1e30, solver=sepify.Solver(memory=1)
    ),
    "images of 1e30 within a budget": lambda: convert(
        plain(), X * 1e30, budget=sepify.Budget(macs=0.5)
    ),
    "images of 1e-30": lambda: convert(plain(), X * 1e-30),
    "denormal images": lambda: convert(plain(), X * 1e-41),
    "a huge range": lambda: convert(plain(), X * torch.logspace(-20, 10, 32)[:, None, None, None]),
    "constant images": lambda: convert(plain(), torch.full_like(X, 0.5)),
    "constant images, pw-dw": lambda: convert(
        plain(), torch.full_like(X, 0.5), architecture=sepify.Architecture(form="pw-dw")
    ),
    "zeros": lambda: convert(plain(), torch.zeros_like(X)),
    "zeros on little memory": lambda: convert(
        plain(), torch.zeros_like(X), solver=sepify.Solver(memory=1)
    ),
    "a channel of zeros": lambda: convert(plain(), one_channel_of(0.0)),
    "a channel of 1e20": lambda: convert(plain(), one_channel_of(1e20)),
    "float64 images": lambda: convert(plain(), X.double()),
    "float64 images, float32 example": lambda: convert(plain(), X.double(), example_inputs=X[:1]),
    "half images": lambda: convert(plain(), X.half()),
    "some float64": lambda: convert(plain(), [X, X.double()]),
    "a float64 model": lambda: convert(plain().double(), X),
    "a half model": lambda: convert(plain().half(), X.half()),
    "a bfloat16 model": lambda: convert(plain().bfloat16(), X.bfloat16()),
    "a half model, float32 images": lambda: convert(plain().half(), X, example_inputs=X[:1].half()),
    "a model that reads pixels": lambda: convert(ReadsPixels().eval(), PIXELS),
    "an array": lambda: convert(plain(), X.numpy()),
    "arrays of big-endian doubles": lambda: convert(plain(), [X.numpy().astype(">f8")]),
    "images with a gradient": lambda: convert(plain(), X.clone().requires_grad_() * 1),
    "images made in inference mode": lambda: convert(
        plain(), in_inference_mode(lambda: images(32, size=8))
    ),
    "an example with a gradient": lambda: convert(
        plain(), X, example_inputs=X[:1].clone().requires_grad_() * 1
    ),
    "a model made in inference mode": lambda: convert(in_inference_mode(plain), X),
    "called in inference mode": lambda: in_inference_mode(lambda: convert(plain(), X)),
    "called under autocast": under_autocast,
    "float64 by default": with_default_double,
    "channels last in memory": lambda: convert(plain(), X.to(memory_format=torch.channels_last)),
    "every second pixel": lambda: convert(plain(), images(32, size=16)[:, :, ::2, ::2]),
    "one image expanded": lambda: convert(plain(), X[:1].expand(32, -1, -1, -1)),
    "images of two sizes": lambda: convert(plain(), [X, images(20, size=12)]),
    "images of two sizes on little memory": lambda: convert(
        plain(), [X, images(20, size=12)], solver=sepify.Solver(memory=1)
    ),
    "batches of one": lambda: convert(plain(), list(X.split(1))),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_converted_to_finite_numbers(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FidelityWarning)  # noise is not what it was trained on
        small = CONVERTED[kind]()
    assert all(t.isfinite().all() for t in small.state_dict().values())
    plan = small.meta["sepify"].plan
    assert len(plan.rewritten) >= 1
    plan_to_dict(plan)  # every number in it is finite
    assert not any(t.is_inference() for t in small.state_dict().values())


REFUSED = {
    "a negative variance": (
        lambda: convert(plain(lambda m: m.bn1.running_var.fill_(-0.5)), X),
        "'bn1' has a running variance of -0.5",
    ),
    "a negative variance, no images": (
        lambda: sepify.convert(
            plain(lambda m: m.bn1.running_var.fill_(-0.5)), solver=sepify.Solver(method="svd")
        ),
        "'bn1' has a running variance of -0.5",
    ),
    "no variance and no epsilon": (lambda: convert(plain(without_variance), X), "variance of 0"),
    "weights of 1e38": (lambda: convert(scaled(1e38), X), "answers .* with NaN: are they prepared"),
    "weights of 1e38, by SVD": (
        lambda: convert(scaled(1e38), X, solver=sepify.Solver(method="svd")),
        "with NaN",
    ),
    "weights of 1e38, a plan": (
        lambda: sepify.plan(scaled(1e38), calibration=X, budget=sepify.Budget(macs=0.5)),
        "with NaN",
    ),
    "beyond BatchNorm's float32": (
        lambda: convert(plain(), X * 1e30, architecture=sepify.Architecture(style="mobilenet")),
        "'conv1' cannot be solved for in float32",
    ),
    "pixels": (lambda: convert(plain(), PIXELS), r"float32 weights; as a rule, .* / 255"),
    "pixels to calibrate on": (
        lambda: convert(plain(), PIXELS, example_inputs=X[:1]),
        r"batch 1 holds uint8, but the network reads float32: .* / 255",
    ),
    "pixels as the example": (lambda: convert(plain(), X, example_inputs=PIXELS[:1]), "/ 255"),
    "whole numbers": (lambda: convert(plain(), (X * 9).long()), "float32 weights; as a rule"),
    "truth values": (lambda: convert(plain(), X > 0), "float32 weights; as a rule"),
    "more than half holds": (
        lambda: convert(plain().half(), X * 1e6, example_inputs=X[:1].half()),
        "more than its type can hold",
    ),
    "complex numbers": (lambda: convert(plain(), X.cfloat()), "is complex: give dense"),
    "sparse images": (lambda: convert(plain(), X.to_sparse()), "is sparse: give dense"),
    "images without values": (lambda: convert(plain(), X.to("meta")), "is on the meta device"),
    "one of them sparse": (lambda: convert(plain(), [X, X.to_sparse()]), "batch 2 is sparse"),
    "a number": (lambda: convert(plain(), 3), "int is neither"),
    "a name": (lambda: convert(plain(), "images.npy"), "str is neither"),
    "text in an array": (lambda: convert(plain(), np.array(["a", "b"])), "batch 1 holds"),
    "numbers, not batches": (lambda: convert(plain(), [1.0, 2.0]), r"batch 1 holds \(float\)"),
    "single numbers": (lambda: convert(plain(), [torch.tensor(1.0)]), "is a single number"),
    "dicts": (lambda: convert(plain(), [{"x": X}]), r"batch 1 holds \(str\)"),
    "no images": (lambda: convert(plain(), X[:0]), "is empty"),
    "no images, for ever": (lambda: convert(plain(), itertools.repeat(X[:0])), "is empty"),
    "an example without images": (
        lambda: convert(plain(), X, example_inputs=X[:0]),
        r"\(0, 3, 8, 8\), without a single image",
    ),
    "one image": (lambda: convert(plain(), X[:1]), "1 calibration images are too few"),
    "channels last": (
        lambda: convert(plain(), X.permute(0, 2, 3, 1)),
        r"reads 3 channels: .*; yours come last: images.permute\(0, 3, 1, 2\)",
    ),
    "channels last to calibrate on": (
        lambda: convert(plain(), X.permute(0, 2, 3, 1), example_inputs=X[:1]),
        r"the example input \(1, 3, 8, 8\); the channels come second: images.permute",
    ),
    "four channels": (
        lambda: convert(plain(), images(32, 4, 8), example_inputs=X[:1]),
        r"batch 1 is \(32, 4, 8, 8\), the example input",
    ),
    "without channels": (lambda: convert(plain(), X[:, 0]), "reads 3 channels"),
    "another size": (
        lambda: convert(
            seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))),
            images(32, size=9),
            example_inputs=X[:1],
        ),
        r"does not take an input of \(2, 3, 9, 9\) float32",
    ),
    "a loader that fails": (lambda: convert(plain(), failing()), "OSError: no disk"),
}


def failing() -> Iterator[Tensor]:
    yield X
    raise OSError("no disk")


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_sentence(kind):
    act, message = REFUSED[kind]
    with pytest.raises(SepifyError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_a_loader_without_an_end_is_taken_up_to_a_number_of_images():
    with pytest.warns(CalibrationWarning, match="first 8,192 images of the loader"):
        convert(plain(), itertools.repeat(torch.cat([X] * 8)), solver=sepify.Solver(refine=False))


def test_a_loader_without_an_end_is_taken_up_to_a_number_of_bytes(monkeypatch):
    monkeypatch.setattr("sepify.graph.batches.MOST_BYTES", 3 * X.numel() * 4)
    with pytest.warns(CalibrationWarning, match="first 96 images of the loader"):
        convert(plain(), itertools.repeat(X), solver=sepify.Solver(refine=False))


def test_a_loader_that_ends_in_time_is_taken_whole_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FidelityWarning)  # noise is not what it was trained on
        convert(plain(), (batch for batch in X.split(8)), solver=sepify.Solver(refine=False))


def test_labels_that_are_no_class_numbers_are_refused():
    labelled = (images(160, size=8), torch.zeros(160))
    budget = sepify.Budget(accuracy_drop=50.0, labelled=labelled)
    with pytest.raises(InputError, match="labels must be class numbers"):
        sepify.plan(plain(), calibration=labelled[0], budget=budget)
