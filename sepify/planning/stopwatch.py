"""Time convolutions and what may stand in for them, on this machine: onnxruntime or TVM."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, fx, nn

from sepify.errors import DependencyError, UsageError
from sepify.measuring.latency import Contender, race
from sepify.measuring.machine import this_machine
from sepify.planning.latency_table import LatencyTable, check_table, entry
from sepify.planning.measurements import Candidate, Layer, Measurements
from sepify.progress import Progress

Run = Callable[[], object]
Prepare = Callable[[], None]
# built(module, input) -> (prepare, run): one inference of the module on one image
Built = Callable[[nn.Sequential, Tensor], tuple[Prepare, Run]]

ONNXRUNTIME = "onnxruntime"
REMOTE = ("rpc", "tcp:", "ssh:", "adb:")
SECONDS = 0.5  # of one race: the convolution against its candidates of one rank


def measure_latencies(
    original: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    measurements: Measurements,
    target: str,
    known: LatencyTable | None = None,
    save: Callable[[LatencyTable], None] | None = None,
    progress: Progress | None = None,
) -> tuple[LatencyTable, dict[str, str]]:
    """A table for every convolution of `original`, one thread, one image; and the geometry of each
    by name. `known` is gone on from, `save` called after each geometry, so that nothing is timed
    twice. Ranks are timed upwards until one is no faster than the convolution.

    Raises UsageError for a target on another machine, DependencyError without the runtime,
    PlanError for a `known` table of another target or machine.
    """
    if target.startswith(REMOTE):
        raise UsageError(
            f"target '{target}' is on another machine: latency tables are measured on this one so "
            "far; give onnxruntime or a target of sepify compile that this CPU runs"
        )
    machine = this_machine().cpu
    table = known or LatencyTable(target, machine)
    check_table(table, target, machine)
    build = _builder(target)
    shapes = _input_shapes(original, inputs)
    keys = {name: _geometry(conv, shape) for name, (conv, shape) in shapes.items()}
    layers = {name: layer for layer in measurements.layers for name in layer.names}
    shapes = {name: found for name, found in shapes.items() if name in layers}
    for number, (name, (conv, shape)) in enumerate(shapes.items()):
        if progress is not None:
            progress(f"timing {name} on {target}", number, len(shapes))
        seconds = _time_layer(conv, shape, keys[name], layers[name], table.seconds, build)
        if seconds:
            table = replace(table, seconds={**table.seconds, **seconds})
            if save is not None:
                save(table)
    return table, keys


def _time_layer(
    conv: nn.Conv2d,
    shape: torch.Size,
    geometry: str,
    layer: Layer,
    known: Mapping[str, float],
    build: Built,
) -> dict[str, float]:
    kept, *others = layer.candidates
    if entry(geometry, kept) in known:
        return {}
    x = torch.randn(1, *shape[1:], generator=torch.Generator().manual_seed(0))
    standing = build(_separated(conv, kept), x)
    (first,) = _medians([standing])
    found = {entry(geometry, kept): first}
    live = {candidate.order for candidate in others}
    for rank in sorted({candidate.rank or 0 for candidate in others}):
        tried = [c for c in others if c.rank == rank and c.order in live]
        if not tried:
            continue
        base, *times = _medians([standing, *(build(_separated(conv, c), x) for c in tried)])
        for candidate, time in zip(tried, times, strict=True):
            # by their ratio in one race: the machine may be slower now than it was then
            found[entry(geometry, candidate)] = first * time / base
            if time >= base:
                live.discard(candidate.order)
    return found


def _medians(runs: Sequence[tuple[Prepare, Run]]) -> list[float]:
    contenders = [
        Contender(str(number), 1, "before", prepare, run)
        for number, (prepare, run) in enumerate(runs)
    ]
    samples = race(contenders, seed=0, seconds=SECONDS * len(runs)).samples
    return [float(np.median(each)) for each in samples]


def _separated(conv: nn.Conv2d, candidate: Candidate) -> nn.Sequential:
    """What `candidate` makes of `conv`, with weights that do not matter."""
    if candidate.rank is None:
        return nn.Sequential(copy.deepcopy(conv)).eval()
    ins, outs, rank = conv.in_channels, conv.out_channels, candidate.rank
    geometry = dict(
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        padding_mode=conv.padding_mode,
    )
    if candidate.order == "dw-pw":
        depthwise = nn.Conv2d(ins, ins * rank, groups=ins, bias=False, **geometry)  # type: ignore[arg-type]
        return nn.Sequential(depthwise, nn.Conv2d(ins * rank, outs, 1)).eval()
    pointwise = nn.Conv2d(ins, outs * rank, 1, bias=False)
    return nn.Sequential(
        pointwise,
        nn.Conv2d(outs * rank, outs, groups=outs, **geometry),  # type: ignore[arg-type]
    ).eval()


def _input_shapes(
    original: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> dict[str, tuple[nn.Conv2d, torch.Size]]:
    """Every Conv2d that is called, in order, with the shape of its first input."""
    found: dict[str, tuple[nn.Conv2d, torch.Size]] = {}

    def note(name: str, module: nn.Module, args: tuple[Tensor, ...], _output: object) -> None:
        if isinstance(module, nn.Conv2d) and args:
            found.setdefault(name, (module, args[0].shape))

    network = copy.deepcopy(original).eval()
    for name, module in network.named_modules(remove_duplicate=False):
        if type(module).forward is nn.Conv2d.forward:
            module.register_forward_hook(partial(note, name))
    with torch.no_grad():
        network(*inputs)
    return found


def _geometry(conv: nn.Conv2d, shape: torch.Size) -> str:
    """ "64x64x3x3 /1,1 +1,1 *1,1 g1 @28x28": weight, stride, padding, dilation, groups, input."""
    parts = [
        "x".join(map(str, conv.weight.shape)),
        "/" + ",".join(map(str, conv.stride)),
        "+" + (conv.padding if isinstance(conv.padding, str) else ",".join(map(str, conv.padding))),
        "*" + ",".join(map(str, conv.dilation)),
        f"g{conv.groups}",
        f"@{shape[-2]}x{shape[-1]}",
    ]
    return " ".join(parts)


def _builder(target: str) -> Built:
    if target == ONNXRUNTIME:
        missing = [name for name in ("onnx", "onnxruntime") if not importlib.util.find_spec(name)]
        if missing:
            raise DependencyError(f"{', '.join(missing)} not installed: pip install 'sepify[onnx]'")
        return _on_onnxruntime
    from sepify.compiling.targets import find_target  # loads tvm

    find_target(target)
    return partial(_on_tvm, target)


def _on_tvm(target: str, module: nn.Sequential, x: Tensor) -> tuple[Prepare, Run]:
    from sepify.compiling import compile as compile_model

    compiled = compile_model(module, x, target)
    return partial(_set_threads, compiled), partial(compiled, x)


def _set_threads(compiled: object) -> None:
    compiled.set_threads(1)  # type: ignore[attr-defined]


def _on_onnxruntime(module: nn.Sequential, x: Tensor) -> tuple[Prepare, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _onnx_bytes(module, x), options, providers=["CPUExecutionProvider"]
    )
    return _nothing, partial(session.run, None, {"x": x.numpy()})


def _onnx_bytes(module: nn.Sequential, x: Tensor) -> bytes:
    """A chain of Conv2d as an ONNX model. Written by hand, for the exporter takes seconds; padding
    is zeros whatever its mode, which costs the same."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, name = [], [], "x"
    for number, conv in enumerate(module):
        assert isinstance(conv, nn.Conv2d)
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        reads = [name]
        for role, tensor in (("weight", conv.weight), ("bias", conv.bias)):
            if tensor is not None:
                reads.append(f"{number}.{role}")
                weights.append(numpy_helper.from_array(tensor.detach().numpy(), reads[-1]))
        name = f"y{number}"
        nodes.append(
            helper.make_node(
                "Conv",
                reads,
                [name],
                kernel_shape=list(conv.kernel_size),
                strides=list(conv.stride),
                dilations=list(conv.dilation),
                pads=[top, left, bottom, right],
                group=conv.groups,
            )
        )
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    serialised: bytes = model.SerializeToString()
    return serialised


def _nothing() -> None:
    """A session of onnxruntime has its own threads, set when it is made."""
