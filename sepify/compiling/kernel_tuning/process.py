"""A process that answers questions, one JSON object a line each way: started, asked, and outlived
when it crashes or hangs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sepify.errors import CompileError
from sepify.process.starting import python_environment

_START_SECONDS = 120.0  # torch and tvm are slow to load on a busy machine


class Process:
    """Started when it is first asked, and again after a crash or a hang.

    To be used by one thread; `end` may be called by another.
    """

    def __init__(self, command: Sequence[str], opening: Mapping[str, Any]) -> None:
        """`opening` is the first line that it is sent, which it answers with `ready`."""
        self._command = list(command)
        self._opening = dict(opening)
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._unread = b""
        self._ended = False
        self._lock = threading.Lock()  # of starting and ending

    @property
    def is_running(self) -> bool:
        """Whether it need not be started first."""
        return self._process is not None

    def start(self) -> None:
        """Start it, if it is not running. Raises CompileError if it does not come up."""
        if self._process is not None:
            return
        # it is killed and cannot tidy up: its temporary files lie in a folder of ours
        folder = tempfile.TemporaryDirectory(prefix="sepify-", ignore_cleanup_errors=True)
        one = {"TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": folder.name}
        with self._lock:
            if self._ended:
                raise CompileError("the process that times kernels was ended")
            self._unread, self._folder = b"", folder
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**python_environment(), **one},
                start_new_session=True,  # Ctrl-C is for us to handle
            )
        answer = self._exchange(self._opening, {"": _START_SECONDS})
        if "ready" not in answer:
            self.close()
            raise CompileError(f"the process that times kernels does not start: {answer['error']}")

    def ask(
        self,
        request: Mapping[str, Any],
        limits: Mapping[str, float],
        reached: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Its answer; `error` and the `stage` it was in, and no process any more, if none comes.

        It may say of stages on its way, `{"stage": name}`, of which `reached` is told. `limits`
        are the seconds that each stage may take; "" is the first one. Raises CompileError if it
        does not start.
        """
        self.start()
        return self._exchange(request, limits, reached)

    def close(self) -> None:
        """End it; the next question starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def end(self) -> None:
        """End it for good, from another thread: whoever asks gets an error."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def _exchange(
        self,
        request: Mapping[str, Any],
        limits: Mapping[str, float],
        reached: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        process, stage = self._process, ""
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._failed(process, stage)
        while True:
            line = self._line(process, limits[stage])
            if line is None:
                self.close()
                return {"error": f"took more than {limits[stage]:.0f} s", "stage": stage}
            if not line:
                return self._failed(process, stage)
            answer: dict[str, Any] = json.loads(line)
            if "stage" not in answer:
                return answer
            stage = answer["stage"]
            if reached is not None:
                reached(stage)

    def _line(self, process: subprocess.Popen[bytes], limit: float) -> bytes | None:
        """The next line; b"" at the end of the stream, None where none comes in time."""
        assert process.stdout is not None
        deadline = time.monotonic() + limit
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                return None
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return b""
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _failed(self, process: subprocess.Popen[bytes], stage: str) -> dict[str, Any]:
        code = process.wait()
        self.close()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return {"error": f"crashed: {cause}", "stage": stage}
