"""Which operators a model file may call: namespaces that are let in, and exceptions with a reason.

One table for exported programs, for TorchScript's code before it is loaded, and for the graph that
capture runs.
"""

from __future__ import annotations

import re

# a child process that may write nowhere has to know the operators of quantised networks
from torch.ao.quantization.fx import _decomposed

_FILES = "reads or writes files"
_NETWORK = "runs code on other machines"
_PYTHON = "calls Python functions"
_MEMORY = "trusts indices that nobody checks"
_DEVICE = "changes the state of a device"
OPTIMISER = "is made by torch's own optimiser, and stands in no file"
_TESTS = "is a test of torch itself"

QUANTISING: str = _decomposed.quantized_decomposed_lib.ns

# operators that compute on tensors, or take values apart
NAMESPACES = frozenset({"aten", "prim", "prims", "quantized", QUANTISING, "torchvision", "onnx"})

# by namespace: a pattern of whole names, and what is wrong with them
_REFUSED: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    "aten": (
        (re.compile(r"save|from_file"), _FILES),
        (re.compile(r".*_tensor_unsafe|_nested_view_from_.*|_sparse_semi_structured.*"), _MEMORY),
        (re.compile(r"_cslt_.*|_nested_tensor_(?!from_mask).*|_segment_reduce_backward"), _MEMORY),
        (re.compile(r"_(sparse_)?coo_tensor_with_dims.*|sparse_resize.*"), _MEMORY),
        (re.compile(r"_cufft_.*|record_stream|_?pin_memory"), _DEVICE),
        (re.compile(r"_test_.*"), _TESTS),
    ),
    "prim": (
        (re.compile(r"rpc_.*"), _NETWORK),
        (re.compile(r".*PythonOp.*|CallPython.*"), _PYTHON),
        (re.compile(r"(profile|Profil).*|TimePoint"), _DEVICE),
        (re.compile(r".*(Static|TensorExpr|Fus(ed|ion)|MKLDNN|Bail|Fallback).*"), OPTIMISER),
    ),
}


def why_refused(namespace: str, name: str) -> str | None:
    """Why a model file may not call `namespace::name`; None if it may."""
    if namespace not in NAMESPACES:
        return f"belongs to the namespace '{namespace}', which sepify does not know"
    for pattern, reason in _REFUSED.get(namespace, ()):
        if pattern.fullmatch(name):
            return reason
    return None


def is_refused_method(name: str) -> bool:
    """Whether `x.name` in TorchScript is an aten operator that a file may not call."""
    return why_refused("aten", name) is not None
