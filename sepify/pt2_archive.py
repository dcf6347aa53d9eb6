"""What a `.pt2` archive holds, judged by its table of contents and its JSON before torch opens it.

`torch.export.load` (torch 2.9 to 2.13) can be made to run code by a file: it unpickles tensors
marked `use_pickle` and custom objects, falls back to full unpickling for the sample inputs, loads
native libraries (AOTInductor), evaluates size expressions as Python (sympy's `sympify`), and
resolves operators by dotted path, `torch.os.system` included. A file with any of these is refused.
"""

from __future__ import annotations

import ast
import builtins
import io
import json
import operator
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch._export.serde.schema import SCHEMA_VERSION

from sepify.errors import FileError

_SIZE_OPERATORS = frozenset(
    name
    for name in dir(operator)
    if not name.startswith("_") and name not in ("attrgetter", "methodcaller", "call", "itemgetter")
)
_EXPRESSION = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop),
    *(ast.boolop, ast.cmpop),
)
_NAME_OR_NUMBER = re.compile(r"[\w.+-]*")
_AGAIN = "export the model again with this torch, or use the torch that wrote it"
_BUILT_IN = frozenset(dir(builtins))


def require_exported(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise FileError unless `archive` is an exported program that this torch can load and that
    runs nothing while it is loaded."""
    if all(entry.header_offset for entry in archive.infolist()):
        # the end is missing, and what was found is the directory of an archive inside
        raise FileError(f"{path} is truncated, or no .pt2 file (torch.export.save)")
    entries = {name.partition("/")[2] or name: name for name in archive.namelist()}
    if "archive_format" not in entries:
        raise FileError(f"{path} {_what_instead(entries)}")
    if any(name.startswith("data/aotinductor/") for name in entries):
        raise FileError(
            f"{path} is compiled native code (AOTInductor), which sepify does not run; "
            "save the exported program itself with torch.export.save"
        )
    program = _json(path, archive, entries, "models/model.json")
    try:
        version = program["schema_version"]["major"]
    except (KeyError, TypeError) as error:
        raise FileError(f"{path}: models/model.json has no schema version; {_AGAIN}") from error
    if version != SCHEMA_VERSION[0]:
        raise FileError(
            f"{path} was written by {_writer(program)} in schema {version}, and torch "
            f"{torch.__version__} reads schema {SCHEMA_VERSION[0]}; {_AGAIN}"
        )
    for kind in ("weights", "constants"):
        stored = _json(path, archive, entries, f"data/{kind}/model_{kind}_config.json")
        for name, item in stored.get("config", {}).items():
            if item.get("use_pickle", True):
                raise FileError(
                    f"{path} holds '{name}' as a pickled Python object, which could run code; "
                    "export the model again with plain tensors"
                )
    _require_plain_samples(path, archive, entries.get("data/sample_inputs/model.pt"))
    for kind, text in _texts(program):
        if not (_is_operator(text) if kind == "target" else _is_expression(text)):
            raise FileError(
                f"{path} holds {text[:60]!r} where an operator or a size belongs, which could run "
                "code; it was not made by torch.export.save"
            )


def _json(path: Path, archive: zipfile.ZipFile, entries: dict[str, str], name: str) -> Any:
    if name not in entries:
        raise FileError(f"{path} is in the layout of another torch, without {name}; {_AGAIN}")
    try:
        return json.loads(archive.read(entries[name]))
    except (ValueError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} is damaged: {name} cannot be read ({error})") from error


def _require_plain_samples(path: Path, archive: zipfile.ZipFile, entry: str | None) -> None:
    if entry is None or not archive.getinfo(entry).file_size:
        return
    try:
        torch.load(io.BytesIO(archive.read(entry)), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the restricted unpickler refuses or cannot read
        raise FileError(
            f"{path} holds sample inputs that are pickled Python objects, which could run code; "
            "export the model again with plain tensors as inputs"
        ) from error


def _writer(program: dict[str, Any]) -> str:
    return f"torch {program.get('torch_version') or '(of unknown version)'}"


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every operator name ("target", of graph nodes) and size expression in the program."""
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "expr_str" and isinstance(item, str):
                yield "expression", item
            elif key == "nodes" and isinstance(item, list):
                yield from (("target", str(node["target"])) for node in item)
                yield from _texts(item)
            else:
                yield from _texts(item)


def _is_operator(target: str) -> bool:
    """An operator of a library, arithmetic, or torch's arithmetic on sizes."""
    module, _, name = target.rpartition(".")
    if module == "torch":
        return name.startswith(("sym_", "_sym_"))
    if module == "_operator":
        return name in _SIZE_OPERATORS
    return module == "math" or target.startswith(("torch.ops.", "#"))


def _is_expression(text: str) -> bool:
    """Whether `text`, evaluated, can only compute: names called are not Python's own functions,
    nothing has an attribute taken, and a string is a name or a number."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _EXPRESSION):
            return False
        if isinstance(node, ast.Name) and (node.id in _BUILT_IN or node.id.startswith("_")):
            return False
        value = getattr(node, "value", None)
        if isinstance(value, (str, bytes)) and not _NAME_OR_NUMBER.fullmatch(str(value)):
            return False
    return True


def _what_instead(entries: dict[str, str]) -> str:
    """What a zip archive is, if not an exported program."""
    if any(name.endswith("serialized_exported_program.json") for name in entries.values()):
        return f"is an exported program in the layout of torch 2.7 and older; {_AGAIN}"
    if "constants.pkl" in entries:
        return "is TorchScript, not an exported program; name it something.pt"
    if "data.pkl" in entries:
        return "is a pickled Python object or a state_dict (torch.save), not an exported program"
    return "is a zip archive but not an exported program; make one with torch.export.save"
