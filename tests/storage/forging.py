"""Model files as a stranger would forge them: a good one with something changed."""

from __future__ import annotations

import copy
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

PROGRAM = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
X = torch.randn(2, 3, 8, 8)

Entries = dict[str, bytes]


class Net(nn.Module):
    """A convolution, a buffer and a size that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) * self.scale
        return y[:, :, : y.shape[2] // 2]


class Marks:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def saved(value: object) -> bytes:
    """As torch.save writes it."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def exported(model: nn.Module | None = None, inputs: tuple[Any, ...] = (X,)) -> Entries:
    """The entries of a `.pt2` file, by names without the root folder."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dims = ({0: Dim.AUTO, 2: Dim.AUTO},) if model is None else None
        program = torch.export.export((model or Net()).eval(), inputs, dynamic_shapes=dims)
        torch.export.save(program, stream)
    return entries_of(stream.getvalue())


def scripted(model: nn.Module | torch.jit.ScriptModule) -> Entries:
    """The entries of a TorchScript file, by names without the root folder."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model.eval()), stream)
    return entries_of(stream.getvalue())


def entries_of(content: bytes) -> Entries:
    """The entries of an archive, by names without the root folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def zipped(*pairs: tuple[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of exactly these entries, in this order, names twice or not."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", kind) as archive:
        warnings.simplefilter("ignore")
        for name, content in pairs:
            archive.writestr(name, content)
    return stream.getvalue()


def packed(entries: Entries) -> bytes:
    """The archive of these entries, in one root folder."""
    return zipped(*((f"archive/{name}", content) for name, content in entries.items()))


def with_program(entries: Entries, change: Callable[[Any], Any]) -> bytes:
    """A `.pt2` file whose program is changed in place."""
    return packed(with_json(entries, PROGRAM, change))


def with_json(entries: Entries, name: str, change: Callable[[Any], Any]) -> Entries:
    """The entries with one JSON record changed in place."""
    value = json.loads(entries[name])
    change(value)
    return {**entries, name: json.dumps(value).encode()}


def with_call(target: str, *texts: str) -> Callable[[Any], None]:
    """A change of a program: a first node that calls `target` with texts."""

    def change(program: Any) -> None:
        graph = program["graph_module"]["graph"]
        nodes = graph["nodes"]
        new = copy.deepcopy(next(n for n in nodes if "as_tensor" in n["outputs"][0]))
        shape = new["outputs"][0]["as_tensor"]["name"]
        new["target"] = target
        new["inputs"] = [{"name": "", "arg": {"as_string": text}, "kind": 1} for text in texts]
        new["outputs"][0]["as_tensor"]["name"] = new["name"] = "forged"
        graph["tensor_values"]["forged"] = copy.deepcopy(graph["tensor_values"][shape])
        nodes.insert(0, new)

    return change
