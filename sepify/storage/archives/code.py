"""TorchScript's source code, read before torch compiles it.

torch compiles all of it on loading, and runs parts: `__setstate__` of every class, and the values
of defaults and of constants.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from sepify.errors import FileError
from sepify.storage.archives.operators import is_refused_method, why_refused

_NUMBERS = frozenset({"inf", "nan", "infj", "nanj"})
_SPECIAL = frozenset({"torch", "ops"})  # torch.<operator>, ops.<namespace>.<operator>
_ROOTS = (["torch"], ["ops"], ["__torch__"])
_CASTS = frozenset({"annotate", "unchecked_cast"})
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
_STATEMENTS = (ast.Assign, ast.AnnAssign, ast.Return, ast.Pass)
_STATE_EXPRESSIONS = (
    *(ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.Constant, ast.UnaryOp),
    *(ast.Call, ast.expr_context, ast.unaryop),
)
MOST_CODE = 32 * 2**20
_QUANTISED = "is quantised ({}); give the floating-point model and quantise the converted one"


def require_code(path: Path, entry: str, content: bytes) -> None:
    """Raise FileError unless the source code in `entry` of the file `path` calls operators that a
    model may call, and runs nothing when it is loaded."""
    if len(content) > MOST_CODE:
        raise FileError(f"{path} holds {len(content):,} bytes of code in {entry}, too much to read")
    try:
        tree = ast.parse(content.decode("utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FileError(f"{path} is damaged: the code in {entry} cannot be read") from error
    if not all(isinstance(step, _DEFINITIONS) for step in tree.body):
        raise FileError(f"{path} is damaged: the code in {entry} holds more than definitions")
    try:
        for node in _walked(tree):
            found = _fault(node)
            if found:
                raise FileError(f"{path} {found}")
    except RecursionError as error:
        raise FileError(f"{path} is damaged: the code in {entry} is nested too deep") from error


def _walked(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, but of `torch.x`, `ops.x.y` and `__torch__.x.y` the whole chain alone."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not (isinstance(node, ast.Attribute) and _chain(node)[:1] in _ROOTS):
            waiting.extend(ast.iter_child_nodes(node))


def _fault(node: ast.AST) -> str | None:
    """What is wrong with one node, in words that follow the file's name."""
    if isinstance(node, ast.Attribute):
        return _attribute_fault(node)
    if isinstance(node, ast.Name) and node.id in _SPECIAL and isinstance(node.ctx, ast.Load):
        return f"uses '{node.id}' by itself, which could hide an operator"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call_fault(node, node.func.id)
    if isinstance(node, ast.FunctionDef):
        return _function_fault(node)
    if isinstance(node, ast.ClassDef):
        return _class_fault(node)
    return None


def _attribute_fault(node: ast.Attribute) -> str | None:
    chain = _chain(node)
    if chain[:1] == ["torch"]:
        if len(chain) != 2:
            return _unknown(chain)
        return _operator_fault("aten", chain[1])
    if chain[:1] == ["ops"]:
        return _operator_fault(*chain[1:]) if len(chain) == 3 else _unknown(chain)
    if chain[:4] == ["__torch__", "torch", "classes", "quantized"]:
        return _QUANTISED.format(f"class {'.'.join(chain[1:])}")
    if chain[:3] == ["__torch__", "torch", "classes"]:
        return f"uses the class {'.'.join(chain[1:])}, native code that sepify does not know"
    if chain[:1] == ["__torch__"]:  # the file's own classes and functions
        return None
    return _operator_fault("aten", node.attr) if is_refused_method(node.attr) else None


def _operator_fault(namespace: str, name: str) -> str | None:
    why = why_refused(namespace, name)
    return f"calls the operator {namespace}::{name}, which {why}" if why else None


def _unknown(chain: list[str]) -> str:
    return f"uses '{'.'.join(chain)}', which is no operator"


def _call_fault(node: ast.Call, name: str) -> str | None:
    if name not in ("getattr", "hasattr"):
        return None
    asked = node.args[1] if len(node.args) == 2 else None
    if not isinstance(asked, ast.Constant) or not isinstance(asked.value, str):
        return f"calls {name} with a name that is not written out"
    if is_refused_method(asked.value):
        return _operator_fault("aten", asked.value)
    return None


def _function_fault(node: ast.FunctionDef) -> str | None:
    if node.decorator_list or not all(map(_is_literal, _defaults(node))):
        return f"computes something while {node.name}() is loaded: a default that is no constant"
    if node.name == "__setstate__" and not all(map(_only_assigns, node.body)):
        return (
            "runs code while it is loaded: a __setstate__ that does more than assign attributes; "
            "save the model without it, for example traced"
        )
    return None


def _defaults(node: ast.FunctionDef) -> list[ast.expr | None]:
    return [*node.args.defaults, *node.args.kw_defaults]


def _class_fault(node: ast.ClassDef) -> str | None:
    for step in node.body:
        if not isinstance(step, (ast.Assign, ast.AnnAssign)):
            continue
        if isinstance(step, ast.Assign) and isinstance(step.targets[0], ast.Subscript):
            continue  # __annotations__["0"] = a type
        if not _is_literal(step.value):
            return (
                f"computes something while class {node.name} is loaded: a value that is no constant"
            )
    return None


def _is_literal(value: ast.expr | None) -> bool:
    """A number, a text, None, a container of such, with its type or not; torch.device("cpu")."""
    match value:
        case None | ast.Constant():
            return True
        case ast.Name(id=name):
            return name in _NUMBERS
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_literal(operand)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return all(map(_is_literal, items))
        case ast.Dict(keys=keys, values=values):
            return all(map(_is_literal, (*keys, *values)))
        case ast.Call(func=ast.Name(id=name), args=[_, item], keywords=[]) if name in _CASTS:
            return _is_literal(item)
        case ast.Call(func=function, args=[item], keywords=[]):
            return _chain(function) == ["torch", "device"] and _is_literal(item)
    return False


def _only_assigns(step: ast.stmt) -> bool:
    """Whether a statement of __setstate__ only gives attributes and variables values out of the
    state, as they are."""
    if not isinstance(step, _STATEMENTS):
        return False
    for node in ast.walk(step):
        if isinstance(node, ast.Call):
            if not (isinstance(node.func, ast.Name) and node.func.id in _CASTS):
                return False
        elif isinstance(node, ast.expr) and not isinstance(node, _STATE_EXPRESSIONS):
            return False
    return True


def _chain(node: ast.AST) -> list[str]:
    """["torch", "relu"] for `torch.relu`; nothing if it does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []
