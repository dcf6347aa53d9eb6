"""A board that runs our server, over TVM's RPC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax

from sepify.compiling.tvm_api.arrays import tensor
from sepify.errors import CompileError


def connect(host: str, port: int, key: str, secret: str, limit: float) -> Any:
    """A session on a board that runs our server; it ends after `limit` seconds, there."""
    from tvm import rpc

    return rpc.connect(host, port, f"{key} -secret={secret}", session_timeout=int(limit))


def describe_board(session: Any) -> str:
    """What a board's server says of it. Raises CompileError if it is of an older sepify."""
    try:
        tell = session.get_function("sepify.board")
    except AttributeError as error:
        raise CompileError(
            "its server is of an older sepify: copy a new bundle there, and start that one"
        ) from error
    return str(tell())


def set_remote_threads(session: Any, count: int | None) -> int:
    """Use `count` threads of a board's pool, or leave it at one for each core; how many it uses
    now."""
    fast_cores = 1  # a mode of TVM's own pool, which servers of an older sepify have
    if count is not None:
        session.get_function("runtime.config_threadpool")(fast_cores, count)
    return int(session.get_function("runtime.NumThreads")())


class RemoteNetwork:
    """An exported network on a board, with its inputs."""

    def __init__(self, session: Any, library: Path, inputs: Sequence[NDArray[Any]]) -> None:
        session.upload(str(library))
        self._device = session.cpu(0)
        self._machine = relax.VirtualMachine(session.load_module(library.name), self._device)
        self._machine.set_input("main", *(tensor(array, self._device) for array in inputs))

    def outputs(self) -> list[NDArray[Any]]:
        """What it computes there."""
        self._machine.invoke_stateful("main")
        value = self._machine.get_outputs("main")
        parts = [value] if isinstance(value, tvm.runtime.Tensor) else list(value)
        return [part.numpy() for part in parts]

    def seconds(self, repeats: int, least_ms: int = 0) -> list[float]:
        """Time `repeats` inferences after one that is not timed; each the mean of as many as fill
        `least_ms`."""
        clock = self._machine.time_evaluator(
            "invoke_stateful", self._device, number=1, repeat=repeats, min_repeat_ms=least_ms
        )
        return [float(seconds) for seconds in clock("main").results]
