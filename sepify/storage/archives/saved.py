"""Files of `torch.save`: tensors, numbers, texts and containers of them, without torch's loader.

`torch.load` trusts the sizes that a file announces, and reads past the end of a shorter record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from sepify.errors import FileError
from sepify.storage.archives.contents import Contents, open_contents
from sepify.storage.archives.pickles import (
    Function,
    Refusal,
    Storage,
    StorageType,
    StoredTensor,
    read_pickle,
)

MOST_LEVELS = 100  # of containers within containers


def read_saved(path: Path, content: bytes, what: str = "file of torch.save") -> Any:
    """What a file of `torch.save` holds, tensors on the CPU.

    Raises FileError where it holds other objects, and where a tensor does not fit its record.
    """
    contents = open_contents(path, content, what)
    value = saved_value(contents)
    records: dict[Storage, torch.Tensor] = {}

    def tensor(stored: StoredTensor) -> torch.Tensor:
        record = stored.storage
        if record not in records:
            records[record] = _record(contents, record)
        view = records[record].as_strided(stored.size, stored.stride, stored.offset)
        return view.requires_grad_(stored.requires_grad)

    return _built(path, value, tensor, MOST_LEVELS)


def saved_value(contents: Contents) -> Any:
    """What the file's pickle describes, StoredTensors in the place of tensors; no record is read.
    Raises FileError."""
    if "data.pkl" not in contents:
        raise FileError(f"{contents.path} is a zip archive but not a file of torch.save")
    if "byteorder" in contents and contents.read("byteorder") != b"little":
        raise FileError(f"{contents.path} was saved on a big-endian machine, and is not read here")
    return read_pickle(
        contents.path,
        contents.read("data.pkl"),
        _names,
        lambda key: contents.size(f"data/{key}"),
    )


def _names(module: str, name: str) -> Any:
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
        return Function(_parameter)
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return StorageType(getattr(torch, name))
    return _refuse(module, name)


def _parameter(data: Any, requires_grad: Any = True, *_: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise Refusal("holds a parameter that is no tensor")
    return dataclasses.replace(data, requires_grad=bool(requires_grad))


def _refuse(module: str, name: str) -> NoReturn:
    raise Refusal(f"holds a pickled Python object ({module}.{name}), which sepify does not open")


def _record(contents: Contents, record: Storage) -> torch.Tensor:
    content = bytearray(contents.read(f"data/{record.key}"))
    if not record.elements:
        return torch.empty(0, dtype=record.dtype)
    return torch.frombuffer(content, dtype=record.dtype, count=record.elements)


def _built(path: Path, value: Any, tensor: Callable[[StoredTensor], Any], levels: int) -> Any:
    if levels < 0:
        raise FileError(f"{path} holds containers nested more than {MOST_LEVELS} deep")
    if isinstance(value, StoredTensor):
        return tensor(value)
    if isinstance(value, StorageType):
        return value.dtype
    if isinstance(value, dict):
        pairs = ((key, _built(path, item, tensor, levels - 1)) for key, item in value.items())
        return type(value)(pairs)
    if isinstance(value, list | tuple):
        return type(value)(_built(path, item, tensor, levels - 1) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise FileError(f"{path} holds a pickled Python object, which sepify does not open")
