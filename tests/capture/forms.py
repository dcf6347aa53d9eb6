"""What the tests of capture share: TorchScript files in memory, runs, names of convolutions."""

from __future__ import annotations

import copy
import io
import re
import warnings
import zipfile
from typing import Any

import torch
from torch import Tensor, fx, nn


def script(model: nn.Module, form: str, inputs: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """The model as the file that somebody would send: saved and loaded again.

    `form` is "traced" or "scripted", with "-frozen" after it or not.
    """
    kind, _, frozen = form.partition("-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations, and the tracer's remarks on sizes
        if kind == "traced":
            made = torch.jit.trace(model, inputs, strict=False, check_trace=False)
        else:
            made = torch.jit.script(model)
        if frozen:
            made = torch.jit.freeze(made)
        return reload(made)


def reload(scripted: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Through a file and back, which drops Python's part of it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(scripted, buffer)
        buffer.seek(0)
        return torch.jit.load(buffer)


def as_torch_1(scripted: torch.jit.ScriptModule, changes: dict[str, str]) -> bytes:
    """The file that torch 1.4 would have written: its archive (format version 3, in a record of
    that name, no byte order), and its operator schemas, by regular expressions on the code."""
    written, old = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(scripted, written)
    with zipfile.ZipFile(written) as new, zipfile.ZipFile(old, "w") as archive:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith(".py"):
                text = content.decode()
                for pattern, replacement in changes.items():
                    text = re.sub(pattern, replacement, text)
                content = text.encode()
            if "/.data/" not in name and not name.endswith(("byteorder", ".debug_pkl")):
                archive.writestr(name, content)
        archive.writestr("archive/version", "3\n")
    return old.getvalue()


def conv_targets(graph_module: fx.GraphModule) -> list[str]:
    """The names of the convolutions in the order in which they are called."""
    modules = dict(graph_module.named_modules())
    return [
        str(node.target)
        for node in graph_module.graph.nodes
        if node.op == "call_module" and isinstance(modules[str(node.target)], nn.Conv2d)
    ]


def run(model: Any, inputs: tuple[Tensor, ...]) -> Any:
    """The output on copies of the inputs (some networks overwrite theirs)."""
    with torch.no_grad():
        return model(*copy.deepcopy(inputs))


def state_copy(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict as it is now."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(model: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether every tensor has its old value."""
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[k], before[k]) for k in before)


def half_of(x: Tensor) -> tuple[int, int]:
    """Half the height and width, as numbers."""
    return int(x.shape[2] / 2), int(x.shape[3] / 2)
