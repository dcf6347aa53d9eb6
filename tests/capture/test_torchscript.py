"""TorchScript in every form: what comes out computes the same, and is a plain graph module."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from capture.forms import conv_targets, run, script
from capture.networks import CASES, Case

from sepify.capture import Captured, capture
from sepify.graph.comparing import difference

FORMS = ("traced", "scripted", "scripted-frozen", "traced-frozen")

_cache: dict[tuple[str, str], tuple[Case, torch.jit.ScriptModule, Captured]] = {}


def captured(name: str, form: str) -> tuple[Case, torch.jit.ScriptModule, Captured]:
    """A case in one form, captured once for all tests."""
    if (name, form) not in _cache:
        case = CASES[name]
        scripted = script(case.model(), form, case.inputs())
        _cache[name, form] = case, scripted, capture(scripted, case.inputs())
    return _cache[name, form]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same_at_any_batch_and_image_size(name: str, form: str) -> None:
    case, _, result = captured(name, form)
    exact = "frozen" not in form  # freezing folds BatchNorm, which rounds otherwise
    original = case.model()
    assert result.front_end == "torchscript"
    for batch, side in ((2, 16), (5, 16), (1, 24)):
        if side != 16 and form.startswith("traced") and not case.traces_any_size:
            continue
        inputs = case.inputs(batch, side)
        expected = run(original, inputs)
        assert difference(expected, run(result.graph_module, inputs), exact) is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_convolutions_are_modules_under_their_own_names(name: str, form: str) -> None:
    case, _, result = captured(name, form)
    expected: list[str] = [*case.convs]
    found = conv_targets(result.graph_module)
    if form.endswith("frozen"):  # a frozen file has no names left: every convolution is numbered
        folded = [f"folded {index}" for index in range(case.folded)]
        # whether freezing a script folds a computed weight differs from machine to machine
        allowed = [expected + folded] if form == "traced-frozen" else [expected, expected + folded]
        assert all(name.removeprefix("conv_").isdigit() for name in found)
        assert [*map(found.index, found)] in [[*map(each.index, each)] for each in allowed]
    else:
        assert found == expected


@pytest.mark.parametrize("form", ["traced", "scripted"])
@pytest.mark.parametrize("name", sorted(set(CASES) - {"functional", "buffers", "shared", "grid"}))
def test_state_dict_names_and_values_stay(name: str, form: str) -> None:
    case, _, result = captured(name, form)
    original = case.model().state_dict()
    state = result.graph_module.state_dict()
    assert state.keys() == original.keys()
    assert all(torch.equal(state[key], original[key]) for key in original)


ORDINARY = [*((name, "scripted") for name in CASES), ("resnet", "traced-frozen")]


@pytest.mark.parametrize(("name", "form"), ORDINARY)
def test_what_comes_out_scripts_pickles_and_copies(name: str, form: str) -> None:
    case, _, result = captured(name, form)
    graph_module, inputs = result.graph_module, case.inputs(3)
    expected = run(graph_module, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(graph_module)
    assert difference(expected, run(scripted, inputs), exact=False) is None
    again = pickle.loads(pickle.dumps(graph_module))
    assert difference(expected, run(again, inputs), exact=True) is None
    assert difference(expected, run(copy.deepcopy(graph_module), inputs), exact=True) is None


@pytest.mark.parametrize("name", ["mixed", "shapes", "overwriting", "grid"])
def test_what_comes_out_traces_and_exports_with_any_batch_size(name: str) -> None:
    case, _, result = captured(name, "scripted")
    graph_module, inputs = result.graph_module, case.inputs(3)
    expected = run(graph_module, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(graph_module, inputs, strict=False, check_trace=False)
    assert difference(expected, run(traced, inputs), exact=False) is None
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    exported = torch.export.export(graph_module, case.inputs(2), dynamic_shapes=dynamic).module()
    assert difference(expected, run(exported, inputs), exact=False) is None
