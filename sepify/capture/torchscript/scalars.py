"""Operators on numbers, strings and lists, as Python functions.

`ARITHMETIC` may meet sizes of the input and is then recorded in the graph, so each is a function
that torch.fx (when it unpickles, it traces again), torch.jit.script and torch.export all accept:
`int`, `float`, `not`, `min` and `abs` are not such. `PLAIN` is only ever evaluated.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

Function = Callable[..., Any]

ARITHMETIC: dict[str, Function] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "true_divide": operator.truediv,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "fmod": math.fmod,
    "pow": operator.pow,
    "neg": operator.neg,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
}

# of numbers too, but no one function does them that can be recorded: see numbers.py
COMPOSED = {"abs", "min", "max", "minimum", "maximum", "round", "__not__", "rsub", "to"}
CONVERSIONS: dict[str, type] = {"Int": int, "Float": float, "Bool": bool}

# a comparison that holds exactly when the other does not: `not x` cannot be recorded
OPPOSITES: dict[Function, Function] = {
    operator.eq: operator.ne,
    operator.ne: operator.eq,
    operator.lt: operator.ge,
    operator.ge: operator.lt,
    operator.gt: operator.le,
    operator.le: operator.gt,
}

# between TorchScript's types for one and the same number
IDENTITIES = {
    "prim::NumToTensor",
    "prim::unchecked_cast",
    "aten::_unwrap_optional",
    "aten::ScalarImplicit",
    "aten::IntImplicit",
    "aten::FloatImplicit",
    "aten::item",
    "aten::detach",
    "aten::clone",
    "aten::alias",
}


def _append(items: list[Any], item: Any) -> list[Any]:
    items.append(item)
    return items


def _extend(items: list[Any], more: list[Any]) -> None:
    items.extend(more)


def _insert(items: list[Any], index: int, item: Any) -> None:
    items.insert(index, item)


def _set_item(container: Any, key: Any, item: Any) -> Any:
    container[key] = item
    return container


def _setdefault(mapping: dict[Any, Any], key: Any, item: Any) -> Any:
    return mapping.setdefault(key, item)


def _popitem(mapping: dict[Any, Any]) -> tuple[Any, Any]:
    key = next(iter(mapping))  # TorchScript takes the oldest, Python the newest
    return key, mapping.pop(key)


def _slice(items: Any, start: int | None, end: int | None, step: int) -> Any:
    return items[slice(start, end, step)]


def _range_length(start: int, end: int, step: int) -> int:
    return len(range(start, end, step))


def _derive_index(index: int, start: int, step: int) -> int:
    return start + index * step


# on lists, tuples, dicts and strings; items may be of the run, keys and indices are known
CONTAINERS: dict[str, Function] = {
    "aten::append": _append,
    "aten::extend": _extend,
    "aten::insert": _insert,
    "aten::pop": lambda items, *key: items.pop(*key),
    "aten::clear": lambda items: items.clear(),
    "aten::remove": lambda items, item: items.remove(item),
    "aten::sort": lambda items, reverse=False: items.sort(reverse=reverse),
    "aten::reverse": lambda items: items.reverse(),
    "aten::copy": lambda items: items.copy(),
    "aten::list": list,
    "aten::len": len,
    "aten::slice": _slice,
    "aten::add": operator.add,
    "aten::add_": operator.iadd,
    "aten::mul": operator.mul,
    "aten::__getitem__": operator.getitem,
    "aten::_set_item": _set_item,
    "aten::Delete": operator.delitem,
    "aten::keys": lambda d: list(d.keys()),
    "aten::values": lambda d: list(d.values()),
    "aten::items": lambda d: list(d.items()),
    "aten::get": lambda d, *key: d.get(*key),
    "aten::setdefault": _setdefault,
    "aten::popitem": _popitem,
    "aten::update": lambda d, other: d.update(other),
    "prim::TupleIndex": operator.getitem,
}

# on known values only
PLAIN: dict[str, Function] = {
    "aten::format": lambda text, *values: text.format(*values),
    "aten::percentFormat": lambda text, *values: text % values,
    "aten::str": str,
    "aten::lower": str.lower,
    "aten::upper": str.upper,
    "aten::startswith": str.startswith,
    "aten::endswith": str.endswith,
    "aten::strip": str.strip,
    "aten::split": str.split,
    "aten::join": str.join,
    "aten::replace": str.replace,
    "aten::__contains__": lambda container, item: item in container,
    "aten::index": lambda items, item: items.index(item),
    "aten::any": any,
    "aten::all": all,
    "aten::sum": sum,
    "aten::count": lambda items, item: items.count(item),
    "aten::sorted": sorted,
    "aten::range": lambda *bounds: list(range(*bounds)),
    "prim::rangelist": lambda end: list(range(end)),
    "aten::warn": lambda *_: None,
    "prim::device": torch.device,
    "aten::device": torch.device,
    "aten::is_scripting": lambda: True,
    "aten::is_grad_enabled": lambda: True,  # the graph is to be trained: see _requires_grad
    "aten::is_autocast_enabled": lambda *_: False,
}

RANGES: dict[str, Function] = {
    "aten::__range_length": _range_length,
    "aten::__derive_index": _derive_index,
}


def negated_node(node: fx.Node) -> fx.Node:
    """`not node`, as torch.fx, torch.jit.script and torch.export all accept it."""
    target = node.target
    if target in OPPOSITES:
        return node.graph.call_function(OPPOSITES[target], node.args)
    if target in (operator.and_, operator.or_):  # de Morgan
        parts = tuple(negated_node(part) for part in node.all_input_nodes)
        return node.graph.call_function(
            operator.or_ if target is operator.and_ else operator.and_, parts
        )
    return node.graph.call_function(operator.ne, (node, True))
