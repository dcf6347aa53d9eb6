"""The network of this folder, from Python: needs numpy, and neither sepify nor TVM installed.

    from model import Model
    network = Model()
    logits = network(image)       # numpy arrays in, one array or a tuple of arrays out

At a shell, `python3 model.py` runs the self-test.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray
_ROOM = 512  # for an error's text


class Model:
    """Files and CPU are checked before the network's code is loaded. One instance in a process."""

    def __init__(self, folder: Path | str | None = None, threads: int = 0) -> None:
        """`threads` 0: TVM_NUM_THREADS, or one for each core that the process may use. Raises
        OSError saying what is wrong."""
        self.folder = Path(folder or Path(__file__).parent).resolve()
        self.facts = json.loads((self.folder / "model.json").read_text(encoding="utf-8"))
        self._library = ctypes.CDLL(str(self.folder / "libsepify_model.so"))
        self._why = ctypes.create_string_buffer(_ROOM)
        place = str(self.folder).encode()
        if self._library.sepify_open(place, threads, self._why, ctypes.c_size_t(_ROOM)):
            raise OSError(f"this bundle cannot be used: {self._why.value.decode()}")

    def __call__(self, *arrays: Array) -> Array | tuple[Array, ...]:
        """One inference. Raises ValueError for arrays of another number, shape or type."""
        wanted = self.facts["inputs"]
        if len(arrays) != len(wanted):
            raise ValueError(f"{len(arrays)} inputs; the network takes {len(wanted)}")
        inputs = [np.ascontiguousarray(array) for array in arrays]
        for index, value in enumerate(wanted):
            array = inputs[index]
            if list(array.shape) != value["shape"] or str(array.dtype) != value["dtype"]:
                raise ValueError(
                    f"{value['name']} is {array.dtype} {array.shape}, not "
                    f"{value['dtype']} {tuple(value['shape'])}"
                )
        outputs = [np.empty(v["shape"], v["dtype"]) for v in self.facts["outputs"]]
        given, taken = _pointers(inputs), _pointers(outputs)
        if self._library.sepify_run(given, taken, self._why, ctypes.c_size_t(_ROOM)):
            raise RuntimeError(self._why.value.decode())
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def self_test(self) -> float:
        """Largest relative error of the outputs for the stored inputs."""
        outputs = self(*self._stored("inputs"))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        worst = 0.0
        for index, want in enumerate(self._stored("outputs")):
            difference = np.abs(outputs[index].astype(np.float64) - want.astype(np.float64))
            scale = float(np.abs(want).max(initial=0)) or 1.0
            worst = max(worst, float(difference.max(initial=0)) / scale)
        return worst

    def _stored(self, kind: str) -> list[Array]:
        return [
            np.fromfile(self.folder / v["stored"], v["dtype"]).reshape(v["shape"])
            for v in self.facts[kind]
        ]


def _pointers(arrays: list[Array]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


if __name__ == "__main__":
    network = Model()
    error, allowed = network.self_test(), network.facts["tolerance"]
    passed = error <= allowed
    print(
        f"self-test: largest relative error {error:.2e}, allowed {allowed:.0e}: "
        f"{'passed' if passed else 'FAILED'}"
    )
    raise SystemExit(not passed)
