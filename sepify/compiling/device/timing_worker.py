"""The process that has a board time networks. One JSON request a line on stdin, one answer a line
on stdout, and whoever started it ends it when the board hangs.

    {"board": [host, port, match], "secret": s, "limit": s, "networks": [...], "threads": n or null,
     "seconds": s, "rounds": [fewest, most], "repeats": n, "least_ms": n}
        ->  {"stage": "connected"},
            {"board": text, "threads": n, "samples": [network][round][repeat]}
        or  {"error": "..."}: a network's fault; {"unreached": "..."}, {"lost": "..."}: the board's
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from sepify.compiling import tvm_api
from sepify.compiling.kernel_tuning.worker import answer_on, private_stdout
from sepify.errors import CompileError, first_line


def main() -> None:
    """Answer requests until stdin ends; the first line says nothing."""
    requests, answers = sys.stdin, private_stdout()
    requests.readline()
    answer_on(answers, {"ready": True})
    for line in requests:
        answer = _answer(json.loads(line), answers)
        gc.collect()  # TVM's client is a cycle, and the board serves one session at a time
        answer_on(answers, answer)


def _answer(request: dict[str, Any], answers: TextIO) -> dict[str, Any]:
    try:
        host, port, match = request["board"]
        session = tvm_api.connect(host, port, match, request["secret"], request["limit"])
    except Exception as error:
        return {"unreached": first_line(error)[:300]}
    answer_on(answers, {"stage": "connected"})
    try:
        described = tvm_api.describe_board(session)
        threads = tvm_api.set_remote_threads(session, request["threads"])
        samples = _race(session, request) if request["networks"] else []
        return {"board": described, "threads": threads, "samples": samples}
    except (ValueError, CompileError) as error:
        return {"error": str(error)}
    except Exception as error:  # the session ended, or something was refused there
        return {"lost": first_line(error)[:300]}


def _race(session: Any, request: dict[str, Any]) -> list[list[list[float]]]:
    """Each round gives every network one turn, in a new random order."""
    networks = [_ready(session, given) for given in request["networks"]]
    fewest, most = request["rounds"]
    samples: list[list[list[float]]] = [[] for _ in networks]
    random = np.random.default_rng(0)
    began = time.monotonic()
    for turn in range(most):
        if turn >= fewest and time.monotonic() - began > request["seconds"]:
            break
        for index in random.permutation(len(networks)):
            taken = networks[index].seconds(request["repeats"], request["least_ms"])
            samples[index].append(taken)
    return samples


def _ready(session: Any, given: dict[str, Any]) -> tvm_api.RemoteNetwork:
    """A network on the board, after it gave there what torch gives. Raises ValueError."""
    inputs = [_read(value) for value in given["inputs"]]
    network = tvm_api.RemoteNetwork(session, Path(given["library"]), inputs)
    for have, value in zip(network.outputs(), given["outputs"], strict=True):
        want = _read(value)
        scale = float(np.abs(want).max()) or 1.0
        error = float(np.abs(have.astype(np.float64) - want).max()) / scale
        if not error <= given["tolerance"]:
            raise ValueError(f"its output there differs from torch's by {error:.1e} of the largest")
    return network


def _read(value: dict[str, Any]) -> NDArray[Any]:
    flat: NDArray[Any] = np.fromfile(value["file"], np.dtype(value["dtype"]))
    return np.reshape(flat, value["shape"])


if __name__ == "__main__":
    main()
