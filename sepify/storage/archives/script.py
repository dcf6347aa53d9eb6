"""A TorchScript file, judged entry by entry, and written anew for torch to load."""

from __future__ import annotations

import io
import re
from typing import Any, NoReturn

from sepify.errors import FileError
from sepify.storage.archives.code import require_code
from sepify.storage.archives.contents import Contents, written
from sepify.storage.archives.pickles import (
    Function,
    Refusal,
    StandIn,
    read_pickle,
)

_CODE = re.compile(r"code/(\w+/)*\w+\.py")
_DEBUG = re.compile(r"code/(\w+/)*\w+\.py\.debug_pkl")
_RECORD = re.compile(r"(data|constants)/\w+")
# what torch reads besides; everything else (traced inputs, the code of mobile interpreters, other
# people's notes) is left out
_VERSIONS = ("version", ".data/version")  # in format 6 and newer
_WRITTEN = (*_VERSIONS, "byteorder", "data.pkl", "constants.pkl")
_CLASS = re.compile(r"__torch__(\.\w+)*")
_LISTS = frozenset({"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist"})


def clean_script(contents: Contents) -> io.BytesIO:
    """The archive that torch is given in the place of a stranger's: the same model.

    Raises FileError, in one sentence that names it, for an operator, a class, a __setstate__ or a
    size that a model may not have (docs/security.md).
    """
    path = contents.path
    if "byteorder" in contents and contents.read("byteorder") != b"little":
        raise FileError(f"{path} was saved on a big-endian machine, and is not read here")
    versions = [contents.read(name) for name in _VERSIONS if name in contents]
    if len(versions) != 1 or not re.fullmatch(rb"\d{1,4}\n?", versions[0]):
        raise FileError(f"{path} is damaged: it does not say which version of TorchScript it is")
    if "data.pkl" not in contents:
        raise FileError(f"{path} is damaged: data.pkl is missing")
    kept = [name for name in contents.entries if _is_read(name)]
    entries = {name: contents.read(name) for name in kept if not _RECORD.fullmatch(name)}
    for name, content in entries.items():
        if _CODE.fullmatch(name):
            require_code(path, name, content)
    for folder in ("constants", "data"):
        read_pickle(
            path,
            entries[f"{folder}.pkl"],
            _names,
            lambda key, folder=folder: contents.size(f"{folder}/{key}"),  # type: ignore[misc]
        )
    for name in kept:
        if _DEBUG.fullmatch(name):
            read_pickle(path, entries[name], _debug_names, lambda _: None)
        if _RECORD.fullmatch(name):
            entries[name] = contents.read(name)
    return written(entries)


def _is_read(name: str) -> bool:
    return name in _WRITTEN or any(kind.fullmatch(name) for kind in (_CODE, _DEBUG, _RECORD))


def _names(module: str, name: str) -> Any:
    if module == "torch.jit._pickle" and name in _LISTS:
        return Function(list)
    if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
        return Function(_typed)
    if (module, name) == ("builtins", "complex"):
        return Function(complex)
    if module.startswith("__torch__.torch.classes.quantized"):
        raise Refusal(
            f"is quantised (class {module.removeprefix('__torch__.')}.{name}); give the "
            "floating-point model and quantise the converted one"
        )
    if module.startswith("__torch__.torch.classes") or not _CLASS.fullmatch(module):
        _refuse(module, name)
    return type(name, (StandIn,), {"__slots__": ()})


def _debug_names(module: str, name: str) -> Any:
    if module == "torch.jit._pickle" and name in _LISTS:
        return Function(list)
    return _refuse(module, name)


def _refuse(module: str, name: str) -> NoReturn:
    raise Refusal(f"holds an object of {module}.{name}, which sepify does not know; it is not read")


def _typed(value: Any, kind: Any) -> Any:
    """A container and its type, in TorchScript's words."""
    if not isinstance(kind, str):
        raise Refusal("is damaged: the type of a container is no text")
    return value


def what_instead(contents: Contents) -> str | None:
    """What an archive is that is no TorchScript, in words that follow its name; None if it is."""
    if "constants.pkl" in contents:
        return None
    if "model.json" in contents or "attributes.pkl" in contents:
        return "is TorchScript of torch 1.3 or older; load it with that torch, and save it anew"
    return "is a zip archive but not a TorchScript file"
