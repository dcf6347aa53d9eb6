"""Where convolutions are timed for a latency table: on this machine, by onnxruntime or TVM, or on a
board."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor, nn

from sepify.errors import CompileError, DependencyError, UsageError
from sepify.process.machine import this_machine
from sepify.timing.race import Contender, race

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm

Run = Callable[[], object]
Prepare = Callable[[], None]
# built(module, input) -> (prepare, run): one inference of the module on one image
Built = Callable[[nn.Sequential, Tensor], tuple[Prepare, Run]]

ONNXRUNTIME = "onnxruntime"
SECONDS = 0.5  # for each of those that take turns


class Stopwatch(Protocol):
    """Times chains of convolutions on one thread."""

    @property
    def machine(self) -> str:
        """The kind of machine, for `check_table`."""

    def build(self, module: nn.Sequential, x: Tensor) -> Any:
        """Make a chain ready to be timed on `x`, one image."""

    def medians(self, built: Sequence[Any]) -> list[float]:
        """Measure the seconds of each, in turns."""


@dataclass(frozen=True)
class LocalStopwatch:
    """Times convolutions on this machine."""

    machine: str
    builder: Built

    def build(self, module: nn.Sequential, x: Tensor) -> tuple[Prepare, Run]:
        """Compile the chain for this machine."""
        return self.builder(module, x)

    def medians(self, built: Sequence[tuple[Prepare, Run]]) -> list[float]:
        """Measure the seconds of each, in turns."""
        contenders = [
            Contender(str(number), 1, "before", prepare, run)
            for number, (prepare, run) in enumerate(built)
        ]
        samples = race(contenders, seed=0, seconds=SECONDS * len(built)).samples
        return [float(np.median(each)) for each in samples]


@contextmanager
def open_stopwatch(target: str, farm: Farm | None = None) -> Iterator[Stopwatch]:
    """The stopwatch for `target`: a board of `farm`, or else this machine.

    Raises UsageError for a target that neither is, DependencyError without the runtime, DeviceError
    where no board answers.
    """
    if farm is None:
        yield LocalStopwatch(this_machine().cpu, _builder(target))
        return
    if target == ONNXRUNTIME:
        raise UsageError(
            "target 'onnxruntime' is timed on this machine alone: leave the board out, or give its "
            "target, such as raspberry-pi-4"
        )
    from sepify.compiling.device.stopwatch import board_stopwatch

    with board_stopwatch(farm, target) as stopwatch:
        yield stopwatch


def _builder(target: str) -> Built:
    if target == ONNXRUNTIME:
        missing = [name for name in ("onnx", "onnxruntime") if not importlib.util.find_spec(name)]
        if missing:
            raise DependencyError(f"{', '.join(missing)} not installed: pip install 'sepify[onnx]'")
        return _on_onnxruntime
    from sepify.compiling.dependencies import require_tvm
    from sepify.compiling.pipeline import require_here
    from sepify.compiling.targets import find_target

    require_tvm()
    try:
        require_here(find_target(target))
    except CompileError as error:
        raise UsageError(
            f"target '{target}' is not this machine's: name a board to time it on, --device "
            "HOST:PORT (or --tracker HOST:PORT --key K) and --secret FILE; in Python "
            "farm=find_farm(...)"
        ) from error
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
    """Write a chain of Conv2d as an ONNX model, by hand since the exporter takes seconds.

    Padding is zeros whatever its mode, which costs the same.
    """
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
