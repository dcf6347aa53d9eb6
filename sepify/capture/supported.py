"""What no front end can capture: models without usable weights, and models without end."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sepify.errors import CaptureError

_FLOATING = frozenset({"FloatFunctional", "FXFloatFunctional"})  # among torch's quantised layers


def require_supported(model: nn.Module) -> None:
    """Raise CaptureError, naming the parameter or layer, for a model without usable weights, or
    one that contains itself."""
    _require_tree(model, "", [])
    for path, module in model.named_modules():
        require_quotable(path)
        if _is_quantised(type(module)):
            raise CaptureError(
                f"layer '{path}' is quantised ({type(module).__name__}); "
                "give the floating-point model and quantise the converted one"
            )
        for registry in (module._parameters, module._buffers):
            for leaf, tensor in registry.items():
                require_quotable(leaf)
                if tensor is not None:
                    _require_values(tensor, path, leaf)


def require_quotable(name: str) -> None:
    """Raise CaptureError for a layer's or tensor's name that torch.fx cannot put between quotes: it
    writes names into source code as they are, and a file from a stranger may name anything."""
    if re.search(r"[\"\\\n\r\0\ud800-\udfff]", name):
        raise CaptureError(
            f"the layer or tensor '{name}' cannot be traced: torch.fx needs names without quotes, "
            "backslashes and line ends; rename it"
        )


def _is_quantised(kind: type[nn.Module]) -> bool:
    """Whether a layer computes on integers. What only marks where they will begin and end, or
    wraps an addition so that it can be observed, computes in floating point."""
    namespaces = ("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")
    return kind.__module__.startswith(namespaces) and kind.__name__ not in _FLOATING


def _require_values(tensor: Tensor, path: str, leaf: str) -> None:
    name = f"{path}.{leaf}" if path else leaf
    if is_lazy(tensor):
        raise CaptureError(
            f"layer '{path}' is lazy and has no weights yet; "
            "run the model once on an example input, then capture it"
        )
    if tensor.is_meta:
        raise CaptureError(f"'{name}' is on the meta device and holds no values; load weights")
    if tensor.is_complex():
        raise CaptureError(f"'{name}' is complex; sepify converts real networks only")
    if tensor.is_quantized:
        raise CaptureError(f"'{name}' is quantised; give the floating-point model")


def _require_tree(module: nn.Module, path: str, above: list[nn.Module]) -> None:
    """A module inside itself has no end of names; several places for one module are fine."""
    if isinstance(module, torch.jit.ScriptModule):
        return
    if any(module is other for other in above):
        raise CaptureError(
            f"'{path}' is a module that contains it (a {type(module).__name__}), so that the model "
            "has no end; hold it in a list or tuple instead, or as a function's argument"
        )
    for name, child in module.named_children():
        _require_tree(child, f"{path}.{name}" if path else name, [*above, module])
