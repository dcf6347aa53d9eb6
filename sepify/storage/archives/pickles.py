"""torch's pickles, read without running anything: what they name is a stand-in of ours."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sepify.errors import FileError
from sepify.storage.archives.bounds import fits

# what torch's own writers (protocol 2) write; no other opcode calls anything or copies the stack
_OPCODES = frozenset(
    {
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BINPERSID"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "BINUNICODE", "BINFLOAT"),
        *("BININT", "BININT1", "BININT2", "LONG1", "NONE", "NEWTRUE", "NEWFALSE"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS"),
    }
)
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}

Names = Callable[[str, str], Any]
"""Takes a module and a name in it, returns the stand-in; raises Refusal."""


class Refusal(Exception):
    """What is wrong with a pickle, in words that follow "the file"."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A record of so many elements."""

    dtype: torch.dtype
    key: str
    elements: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a record, all within it."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool


@dataclass(frozen=True, slots=True)
class StorageType:
    """torch.FloatStorage and its like."""

    dtype: torch.dtype


class StandIn:
    """An object of a class of the file: nothing but a place that its state may be given to."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> StandIn:
        """With whatever it is made of."""
        return object.__new__(cls)

    def __setstate__(self, _: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Function:
    """A function that a pickle may call, and what we do instead. No state can be built on it."""

    call: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """What we do instead."""
        return self.call(*args)


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *_: Any
) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise Refusal("builds a tensor from something that is no record")
    size, stride = tuple(size), tuple(stride)
    if not fits(size, stride, offset, storage.elements):
        raise Refusal(
            f"holds a tensor of sizes {size!s:.60} that does not fit its record '{storage.key}' of "
            f"{storage.elements} elements"
        )
    return StoredTensor(storage, offset, size, stride, bool(requires_grad))


COMMON: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor),
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): Function(lambda sizes: tuple(sizes)),
    ("torch", "device"): Function(lambda *parts: tuple(parts)),
    **{("torch", name): StorageType(dtype) for name, dtype in DTYPES.items()},
}


class _Reader(pickle.Unpickler):
    def __init__(self, content: bytes, names: Names, record_size: Callable[[str], int | None]):
        super().__init__(io.BytesIO(content))
        self._names = names
        self._record_size = record_size

    def find_class(self, module: str, name: str) -> Any:
        return COMMON[module, name] if (module, name) in COMMON else self._names(module, name)

    def persistent_load(self, given: Any) -> Storage:
        match given:
            case ("storage", StorageType(dtype), str(key), str(place), int(elements)):
                pass
            case _:
                raise Refusal("refers to something that is no record")
        size = self._record_size(key) if place != "meta" else None
        if size is None:
            raise Refusal(f"lacks the record '{key!s:.60}' that a tensor of it lies in")
        if not 0 <= elements * dtype.itemsize <= size:
            raise Refusal(
                f"holds {size} bytes in the record '{key}' where {elements} numbers of "
                f"{dtype.itemsize} bytes are announced"
            )
        return Storage(dtype, key, elements)


def read_pickle(
    path: Path,
    content: bytes,
    names: Names,
    record_size: Callable[[str], int | None],
) -> Any:
    """What `content`, of the file `path`, describes: numbers, texts, containers, StoredTensors, and
    what `names` puts in the place of everything else. `record_size` tells the bytes of a record.

    Raises FileError for a name, an opcode or a size that is not allowed.
    """
    try:
        _require_opcodes(content)
        return _Reader(content, names, record_size).load()
    except Refusal as refusal:
        raise FileError(f"{path} {refusal}") from refusal
    except Exception as error:  # whatever the unpickler meets
        raise FileError(f"{path} is damaged: a pickle in it cannot be read ({error})") from error


def _require_opcodes(content: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES:
            raise Refusal(f"holds the pickle instruction {opcode.name}, which torch does not write")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > len(content):  # memory for each
            raise Refusal("is damaged: a pickle in it counts further than it is long")
