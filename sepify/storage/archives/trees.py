"""How the inputs and outputs of an exported program are nested: tuples, lists and dicts.

torch imports what a tree names: the factory of a defaultdict, the class of an enumeration.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from torch.utils import _pytree as pytree

MOST_LEVELS = 64
_KEYED = frozenset({"builtins.dict", "collections.OrderedDict"})
_PLAIN = frozenset({"builtins.tuple", "builtins.list"}) | _KEYED
_FIELDS = frozenset({"type", "context", "children_spec"})


class TreeRefusal(Exception):
    """What is wrong with a tree, in words that follow the file's name."""


def clean_tree(text: str) -> str:
    """A tree as torch.export writes it, written anew. Raises TreeRefusal for a type that is neither
    a plain container nor a dataclass or named tuple that this process has registered with torch."""
    try:
        protocol, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise TreeRefusal("is damaged: the nesting of its inputs cannot be read") from error
    if protocol != pytree.DEFAULT_TREESPEC_SERIALIZATION_PROTOCOL:
        raise TreeRefusal("nests its inputs in a way that this torch does not read")
    return json.dumps((protocol, _node(tree, MOST_LEVELS)))


def keyword_names(tree: str) -> list[Any]:
    """The names of the keyword arguments in the tree of a call's inputs, (args, kwargs)."""
    _, (_, call) = json.loads(tree), (None, json.loads(tree)[1])
    children = call["children_spec"]
    if len(children) != 2 or children[1]["type"] not in _KEYED:
        return []
    names: list[Any] = json.loads(children[1]["context"])
    return names


def _node(tree: Any, levels: int) -> dict[str, Any]:
    if not isinstance(tree, dict) or set(tree) != _FIELDS or levels < 0:
        raise TreeRefusal("is damaged: the nesting of its inputs cannot be read")
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if not isinstance(children, list):
        raise TreeRefusal("is damaged: the nesting of its inputs cannot be read")
    if kind is None and context is None and not children:
        return {"type": None, "context": None, "children_spec": []}
    if not isinstance(kind, str):
        raise TreeRefusal("is damaged: the nesting of its inputs cannot be read")
    return {
        "type": kind,
        "context": _context(kind, context),
        "children_spec": [_node(child, levels - 1) for child in children],
    }


def _context(kind: str, context: Any) -> Any:
    if kind in _PLAIN or _is_registered_record(kind):
        return json.dumps(_plain_names(context, kind))
    if kind == "collections.namedtuple" and _is_registered_named_tuple(context):
        return context
    raise TreeRefusal(
        f"nests its inputs or outputs in a {kind:.80}, which could run code; export the model with "
        "tuples, lists and dicts"
    )


def _plain_names(context: Any, kind: str) -> Any:
    """The names of a container's items: nothing that torch would resolve."""
    try:
        names = json.loads(context)
    except (ValueError, TypeError, RecursionError) as error:
        raise TreeRefusal("is damaged: the nesting of its inputs cannot be read") from error
    if names is None and kind not in _KEYED:
        return None
    if isinstance(names, list) and all(_is_key(name, kind) for name in names):
        return names
    raise TreeRefusal(f"names the items of a {kind:.80} by something that is no name")


def _is_key(name: Any, kind: str) -> bool:
    if (
        isinstance(name, list) and kind not in _PLAIN
    ):  # fields that are there, and those that are None
        return all(isinstance(part, str) for part in name)
    return isinstance(name, int | float) or (isinstance(name, str) and name.isprintable())


def _is_registered_record(kind: str) -> bool:
    """Whether this process has registered a dataclass under that name, rebuilt from names alone."""
    found = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(kind)
    if found is None or not dataclasses.is_dataclass(found):
        return False
    return pytree.SUPPORTED_SERIALIZED_TYPES[found].from_dumpable_context is None


def _is_registered_named_tuple(context: Any) -> bool:
    if not isinstance(context, str):
        return False
    found = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(context)
    return found is not None and issubclass(found, tuple) and hasattr(found, "_fields")
