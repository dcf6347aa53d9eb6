"""The runtimes that can run a network here: torch, onnxruntime, TVM. Checked before timed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sepify.errors import CompileError, DependencyError, InputError, SepifyError
from sepify.graph.running import Inputs, answer
from sepify.timing.race import Contender, Skipped, Which, thread_settings_restored

# A runtime may reorder sums and fuse layers, no more: above this it computes something else.
TOLERANCE = 1e-2  # largest absolute difference from torch, over torch's largest absolute output


class Compiled(Protocol):
    """What is asked of `sepify.compiling.CompiledModel`: tensors in and out, threads that can be
    set."""

    def __call__(self, *inputs: Tensor) -> Any:
        """One inference."""

    def set_threads(self, threads: int, /) -> object:
        """Run on this many threads from now on."""


# one network on one runtime: (number of threads, inputs) -> (prepare, run)
Runner = Callable[[int, Inputs], tuple[Callable[[], None], Callable[[], Any]]]


def contenders_for(
    runtime: str, runners: dict[Which, Runner], given: dict[Which, Inputs], threads: Sequence[int]
) -> list[Contender]:
    """Return the contenders of one runtime: each network with each number of threads."""
    return [
        Contender(runtime, count, which, *runner(count, given[which]))
        for count in threads
        for which, runner in runners.items()
    ]


def gather(
    runtime: str,
    builders: dict[Which, Callable[[], Runner]],
    models: dict[Which, nn.Module],
    given: dict[Which, Inputs],
    threads: Sequence[int],
) -> tuple[list[Contender], list[Skipped]]:
    """Build and check a runtime's contenders.

    A network that it cannot run is left out, with the reason; where the reason is the same for
    both networks, it is given once.
    """
    runners: dict[Which, Runner] = {}
    reasons: dict[Which, str] = {}
    for which, build in builders.items():
        try:
            runner = build()
            _check(runtime, runner, models[which], given[which])
            runners[which] = runner
        except SepifyError as error:
            reasons[which] = str(error)
    if len(reasons) == 2 and len(set(reasons.values())) == 1:
        return [], [Skipped(runtime, next(iter(reasons.values())))]
    original = {"before": "the original", "after": "the converted network"}
    skipped = [Skipped(runtime, f"{original[which]}: {why}") for which, why in reasons.items()]
    return contenders_for(runtime, runners, given, threads), skipped


def torch_runner(model: nn.Module) -> Runner:
    """Run a module in torch's eager mode."""

    def run(inputs: Inputs) -> Any:
        with torch.inference_mode():
            return model(*inputs)

    return lambda threads, inputs: (partial(torch.set_num_threads, threads), partial(run, inputs))


def onnx_runner(model: nn.Module, inputs: Inputs, folder: Path) -> Runner:
    """onnxruntime on the CPU, all graph optimisations on, from an export in `folder`.

    Raises DependencyError where a package is missing, CompileError where the export fails.
    """
    missing = [n for n in ("onnxruntime", "onnx", "onnxscript") if not importlib.util.find_spec(n)]
    if missing:
        raise DependencyError(f"{', '.join(missing)} not installed: pip install 'sepify[onnx]'")
    import onnxruntime

    path = folder / "model.onnx"
    try:
        with _quiet():
            torch.onnx.export(model, inputs, str(path), dynamo=True, verbose=False)
    except Exception as error:  # the exporter raises whatever the operator at fault raises
        cause = _first_line(error.__cause__ or error)  # the exporter's own words are advice
        raise CompileError(f"the export to ONNX failed: {cause}") from error

    def runner(threads: int, inputs: Inputs) -> tuple[Callable[[], None], Callable[[], Any]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; its warnings on standard error are for developers
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exception types are private
            raise CompileError(f"onnxruntime refuses the model: {_first_line(error)}") from error
        names = [given.name for given in session.get_inputs()]
        if len(names) != len(inputs):
            raise CompileError(f"the ONNX export has {len(names)} inputs, not {len(inputs)}")
        arrays = [tensor.detach().cpu().contiguous().numpy() for tensor in inputs]
        feed = dict(zip(names, arrays, strict=True))
        return _nothing, partial(session.run, None, feed)

    return runner


def tvm_runner(compiled: Compiled) -> Runner:
    """A network that `sepify.compile` compiled for this CPU."""

    def runner(threads: int, inputs: Inputs) -> tuple[Callable[[], None], Callable[[], Any]]:
        return partial(_set_threads, compiled, threads), partial(compiled, *inputs)

    return runner


def _check(runtime: str, runner: Runner, model: nn.Module, inputs: Inputs) -> None:
    """Run once with one thread, on inputs that it was not built with, and hold the answer against
    torch's. Raises CompileError.

    Other inputs, because an exporter may bake what it cannot follow into a constant, which is
    right on the example and very fast.
    """
    others = tuple(x.flip(-1) if x.is_floating_point() else x for x in inputs)
    expected = answer(model, others, "the network")
    prepare, run = runner(1, others)
    try:
        with thread_settings_restored():
            prepare()
            given = answer(lambda *_: _as_tensors(run()), (), runtime)
    except InputError as error:
        raise CompileError(f"it fails: {_first_line(error.__cause__ or error)}") from error
    if [tuple(y.shape) for y in given] != [tuple(y.shape) for y in expected]:
        raise CompileError("its outputs have other shapes than torch's")
    for mine, theirs in zip(given, expected, strict=True):
        scale = float(theirs.abs().max()) or 1.0
        gap = float((mine.double() - theirs.double()).abs().max()) / scale
        if gap > TOLERANCE:
            raise CompileError(f"its answer differs from torch's by {gap:.1%}")


def _as_tensors(output: Any) -> Any:
    """Return onnxruntime's list of arrays as tensors, and anything else as it is."""
    if isinstance(output, list) and not any(isinstance(item, Tensor) for item in output):
        return [torch.as_tensor(item) for item in output]
    return output


def _set_threads(compiled: Compiled, threads: int) -> None:
    compiled.set_threads(threads)


def _nothing() -> None:
    """An onnxruntime session has its own threads, set when it is made."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the ONNX exporter, which writes to standard output, warnings and logging."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _first_line(error: BaseException) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # some exporters write for a terminal
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__
