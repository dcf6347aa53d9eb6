"""What a network returns, taken apart into tensors and put together again.

Compiled code knows tensors alone; dicts, tuples and lists of them, and what is no tensor and was
the same for the example input, are written down as a structure in plain JSON types:
{"tensor": 0} for the first, {"tuple": [...]}, {"list": [...]}, {"dict": [[key, ...], ...]} or
{"value": 3}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sepify.errors import CompileError

Structure = dict[str, Any]

_PLAIN = (str, int, float, bool, type(None))
_SEQUENCES: dict[str, Callable[..., Any]] = {"tuple": tuple, "list": list}


def take_apart(value: Any) -> tuple[tuple[Tensor, ...], Structure]:
    """The tensors in what a network returned, and the structure that they stand in.

    Raises CompileError for anything but tensors, numbers, strings and None in dicts, tuples and
    lists.
    """
    tensors: list[Tensor] = []
    structure = _structure(value, tensors)
    if not tensors:
        raise CompileError("the model returns no tensor: there is nothing to compile")
    return tuple(tensors), structure


def _structure(value: Any, tensors: list[Tensor]) -> Structure:
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        return {"dict": [[key, _structure(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (tuple, list)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_structure(part, tensors) for part in value]}
    if isinstance(value, _PLAIN):
        return {"value": value}
    raise CompileError(
        f"the model returns a {type(value).__name__}; only tensors, alone or in tuples, lists and "
        "dicts, can be compiled: wrap the model so that it returns those"
    )


def put_together(structure: Structure, tensors: Sequence[Any]) -> Any:
    """The inverse of `take_apart`; a dict of any class comes back as a plain one.

    Raises ValueError for what is no structure of so many tensors, as a damaged file may hold.
    """
    try:
        return _whole(structure, tensors)
    except (AttributeError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(f"no structure of {len(tensors)} outputs") from error


def _whole(structure: Structure, tensors: Sequence[Any]) -> Any:
    ((kind, parts),) = structure.items()
    if kind == "tensor" and type(parts) is int and parts >= 0:
        return tensors[parts]
    if kind == "value" and isinstance(parts, _PLAIN):
        return parts
    if kind == "dict":
        return {key: _whole(part, tensors) for key, part in parts}
    if kind not in _SEQUENCES:
        raise ValueError(f"no structure of outputs: {kind!r}")
    return _SEQUENCES[kind](_whole(part, tensors) for part in parts)


def require_structure(value: Structure) -> None:
    """Raise ValueError unless `value`, from a file, is the structure of some tensors, each once."""
    found: list[int] = []

    class Noted(Sequence[int]):
        def __len__(self) -> int:
            return len(found)

        def __getitem__(self, index: Any) -> Any:
            found.append(index)
            return index

    put_together(value, Noted())
    if not found or sorted(found) != [*range(len(found))]:
        raise ValueError("no structure of outputs: its tensors are not counted from 0")
