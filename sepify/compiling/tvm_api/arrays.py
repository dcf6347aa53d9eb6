"""numpy's arrays as TVM's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray


def tensor(array: NDArray[Any], device: Any = None) -> Any:
    """A copy of the array for TVM, on this machine or on a board."""
    return tvm.runtime.tensor(np.ascontiguousarray(array), device=device)
