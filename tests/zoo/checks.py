"""What is required of every network: functions that raise AssertionError, or return a remark.

A remark says why a check does not apply, or by how much it passed: "the original refuses".
"""

from __future__ import annotations

import copy
import io
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from snapshots import snapshot
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

import sepify
from sepify.capture import capture
from sepify.formats.onnx_write import onnxruntime_session
from sepify.formats.pt2_read import load_exported
from sepify.formats.save import save_model
from sepify.formats.torchscript_read import load_torchscript
from sepify.formats.weights import load_weights
from zoo.answers import distance, equal, tensors
from zoo.specimen import BATCH, Specimen

EXACT = ("graph-module", "symbolic-trace", "value-tracer")  # these front ends promise equal bits
CLOSE = 1e-4  # relative, in float32
CLOSE_DOUBLE = 1e-8
Check = Callable[[Specimen], str]


def captured_exactly(specimen: Specimen) -> str:
    """The graph answers as the network does: the same bits where the front end promises that."""
    wanted = specimen.answer(specimen.model, specimen.inputs)
    given = specimen.answer(specimen.captured.graph_module, specimen.inputs)
    _require_same(specimen, wanted, given)
    return specimen.captured.front_end


def another_batch(specimen: Specimen) -> str:
    """The graph and the conversion take one image and three, as the network does."""
    for count in (1, 3):
        told = _on_other_inputs(specimen, specimen.entry.inputs(count, seed=1))
        if told:
            return f"batch {count}: {told}"
    return ""


def another_size(specimen: Specimen) -> str:
    """The graph and the conversion take images of another size, if the network does."""
    if specimen.entry.other is None:
        return "the architecture fixes the size"
    return _on_other_inputs(specimen, specimen.entry.inputs(BATCH, specimen.entry.other, seed=1))


def full_rank(specimen: Specimen) -> str:
    """At full rank the conversion is the same function: within 1e-4 of the largest output in
    float32, or else, where rounding alone makes the difference, within 1e-8 in float64."""
    graph = specimen.captured.graph_module
    error = _full_rank_error(graph, specimen.inputs)
    if error <= CLOSE:
        return ""
    doubles = tuple(tensor.double() for tensor in specimen.inputs)
    exact = _full_rank_error(copy.deepcopy(graph).double(), doubles)
    assert exact <= CLOSE_DOUBLE, f"off by {error:.1e} in float32, {exact:.1e} in float64"
    return f"{error:.1e} in float32, {exact:.1e} in float64"


def rank_one(specimen: Specimen) -> str:
    """At rank 1 the multiply-adds that the plan predicts are those that are counted."""
    plan = specimen.small.meta["sepify"].plan
    predicted = counted_macs(specimen.model, specimen.inputs) + sum(
        (d.after.macs or 0) - (d.before.macs or 0) for d in plan
    )
    counted = counted_macs(specimen.small, specimen.inputs)
    assert predicted == counted, f"the plan says {predicted:,} MACs, counted are {counted:,}"
    wanted = [tensor.shape for tensor in tensors(specimen.answer(specimen.model, specimen.inputs))]
    given = [tensor.shape for tensor in tensors(specimen.answer(specimen.small, specimen.inputs))]
    assert wanted == given, f"shapes {wanted} became {given}"
    return f"{len(plan.rewritten)} of {len(plan.decisions)} convolutions"


def original_untouched(specimen: Specimen) -> str:
    """Capturing, planning and converting leave the model as it is: every bit, every class, every
    `__dict__`."""
    before = snapshot(specimen.model)
    capture(specimen.model, specimen.inputs)
    sepify.plan(specimen.model, specimen.inputs)
    svd = sepify.Solver(method="svd")
    _quietly(lambda: sepify.convert(specimen.model, example_inputs=specimen.inputs, solver=svd))
    assert snapshot(specimen.model) == before, "something of the model has changed"
    return ""


def one_training_step(specimen: Specimen) -> str:
    """The conversion trains: gradients are finite, and every new weight moves, but for those whose
    convolution gets no gradient in the original either."""
    small = copy.deepcopy(specimen.small).train()
    separated = specimen.small.meta["sepify"].plan.rewritten
    names = [f"{d.name}.{part}" for d in separated for part in ("depthwise", "pointwise")]
    convs = {name: small.get_submodule(name) for name in names}
    before = {name: conv.weight.detach().clone() for name, conv in convs.items()}
    _loss(small, specimen).backward()
    # a step in proportion to the gradient, however small: BatchNorm over two pixels has almost none
    torch.optim.Adam(small.parameters(), lr=1e-3, eps=1e-30).step()
    spoilt = [n for n, conv in convs.items() if not conv.weight.isfinite().all()]
    assert not spoilt, f"the weights of {spoilt[0]} are not finite"
    idle = [n for n, conv in convs.items() if torch.equal(before[n], conv.weight)]
    if idle:
        graph = copy.deepcopy(specimen.captured.graph_module).train()
        _loss(graph, specimen).backward()
        original = dict(graph.named_modules())
        for name in idle:
            gradient = original[name.rpartition(".")[0]].weight.grad
            trained = gradient is not None and float(gradient.abs().max()) > 1e-12
            assert not trained, f"{name} does not move, and the original's convolution would"
    small.eval()(*specimen.inputs)
    return f"{len(idle)} weights get no gradient, nor do they in the original" if idle else ""


def switches_mode(specimen: Specimen) -> str:
    """In training mode the graph answers, and moves BatchNorm's statistics, as the network does."""
    model, graph = copy.deepcopy(specimen.model), copy.deepcopy(specimen.captured.graph_module)
    try:
        wanted = specimen.answer(model.train(), specimen.inputs)
    except Exception as error:
        return f"the original refuses to: {_first_line(error)}"
    given = specimen.answer(graph.train(), specimen.inputs)
    if [t.shape for t in tensors(wanted)] != [t.shape for t in tensors(given)]:
        return "the original returns something else in training; the graph is that of inference"
    error = distance(wanted, given)
    if error > CLOSE:
        return f"the training-time path of the original is not in the graph ({error:.1e})"
    ours = dict(graph.named_buffers())
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean") and name in ours:
            assert distance(buffer, ours[name]) <= 1e-3, f"{name} moved otherwise"
    return ""


def pickled(specimen: Specimen) -> str:
    """torch.save and torch.load give the conversion back."""
    stream = io.BytesIO()
    torch.save(specimen.small, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    wanted = specimen.answer(specimen.small, specimen.inputs)
    assert equal(wanted, specimen.answer(loaded, specimen.inputs))
    assert pickle.dumps(specimen.small)
    return ""


def traced_and_imported(specimen: Specimen) -> str:
    """torch.jit.trace's TorchScript is imported and answers as it did."""
    try:
        script = _quietly(lambda: torch.jit.trace(
            specimen.model, specimen.inputs, check_trace=False, strict=False
        ))  # fmt: skip
    except Exception as error:
        return f"PyTorch cannot trace it: {_first_line(error)}"
    return _imported(specimen, script)


def scripted_and_imported(specimen: Specimen) -> str:
    """torch.jit.script's TorchScript, where there is one, is imported and answers as it did."""
    try:
        script = _quietly(lambda: torch.jit.script(specimen.model))
        specimen.answer(script, specimen.inputs)
    except Exception as error:
        return f"PyTorch cannot script it: {_first_line(error)}"
    return _imported(specimen, script)


def saved_as_torchscript(specimen: Specimen) -> str:
    """Saved as .pt and loaded again, the conversion answers as before."""
    return _saved(specimen, ".pt", lambda path: load_torchscript(path).module)


def saved_as_weights(specimen: Specimen) -> str:
    """Saved as .safetensors, and put into the plan on a fresh original, likewise."""
    plan = specimen.small.meta["sepify"].plan
    return _saved(
        specimen, ".safetensors",
        lambda path: load_weights(specimen.model, plan, path, specimen.inputs),
    )  # fmt: skip


def saved_as_exported(specimen: Specimen) -> str:
    """Saved as .pt2 likewise."""
    return _saved(specimen, ".pt2", lambda path: load_exported(path).module())


def saved_as_onnx(specimen: Specimen) -> str:
    """Saved as .onnx and run by onnxruntime likewise."""
    return _saved(specimen, ".onnx", lambda path: onnxruntime_session(path.read_bytes()))


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        captured_exactly, another_batch, another_size, full_rank, rank_one, original_untouched,
        one_training_step, switches_mode, pickled, traced_and_imported, scripted_and_imported,
        saved_as_torchscript, saved_as_weights, saved_as_exported, saved_as_onnx,
    )
}  # fmt: skip


def counted_macs(network: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Multiply-adds for one image as PyTorch's own FlopCounterMode counts them."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    counter = FlopCounterMode(display=False)
    for parameter in trained:  # the counter's module hooks fail on a parameter passed to a module
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), counter:
            network(*inputs)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return counter.get_total_flops() // (2 * len(inputs[0]))


def _saved(specimen: Specimen, suffix: str, load: Callable[[Path], Any]) -> str:
    """What `save_model` says of how; asserts that what is loaded answers as the conversion does, on
    another batch too where the form is open in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"small{suffix}"
        how = save_model(specimen.small, path, specimen.inputs)
        loaded = load(path)
        counts = (BATCH,) if "alone" in how and suffix != ".safetensors" else (BATCH, 3)
        for count in counts:
            inputs = specimen.entry.inputs(count, seed=2)
            try:
                wanted = specimen.answer(specimen.small, inputs)
            except AssertionError as error:
                return f"{how}; the graph refuses batch {count}: {_first_line(error)}"
            error = distance(wanted, specimen.answer(loaded, inputs))
            assert error <= 1e-3, f"{error:.1e} apart at batch {count} ({how})"
    return how


def _require_same(specimen: Specimen, wanted: Any, given: Any) -> None:
    if specimen.captured.front_end in EXACT:
        assert equal(wanted, given), f"not the same bits: {distance(wanted, given):.1e} apart"
    assert distance(wanted, given) <= CLOSE, f"{distance(wanted, given):.1e} apart"


def _on_other_inputs(specimen: Specimen, inputs: tuple[Tensor, ...]) -> str:
    try:
        wanted = specimen.answer(specimen.model, inputs)
    except Exception as error:
        return f"the original refuses: {_first_line(error)}"
    _require_same(specimen, wanted, specimen.answer(specimen.captured.graph_module, inputs))
    given = specimen.answer(specimen.small, inputs)
    assert [t.shape for t in tensors(wanted)] == [t.shape for t in tensors(given)]
    return ""


@torch.no_grad()
def _full_rank_error(graph: fx.GraphModule, inputs: tuple[Tensor, ...]) -> float:
    plan = sepify.plan(graph, rank=None, architecture=sepify.Architecture(costlier=True))
    converted = sepify.convert(graph, plan=plan)
    return distance(Specimen.answer(graph, inputs), Specimen.answer(converted, inputs))


def _loss(network: nn.Module, specimen: Specimen) -> Tensor:
    """The mean square of every output, each divided by its size."""
    outputs = [t.float() for t in tensors(network(*specimen.inputs)) if t.requires_grad]
    assert outputs, "no output needs a gradient"
    losses = [t.square().mean() / (t.detach().square().mean() + 1e-6) for t in outputs]
    return torch.stack(losses).sum()


def _imported(specimen: Specimen, script: torch.jit.ScriptModule) -> str:
    captured = capture(script, specimen.inputs)
    inputs = specimen.entry.inputs(3, seed=1)
    try:
        wanted = specimen.answer(script, inputs)
    except Exception as error:
        return f"another batch: the script itself refuses: {_first_line(error)}"
    error = distance(wanted, specimen.answer(captured.graph_module, inputs))
    assert error <= CLOSE, f"{error:.1e} apart at another batch"
    return ""


def _quietly(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160]
