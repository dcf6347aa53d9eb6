"""The expressions of an exported program: sizes, and assumptions about them.

torch evaluates both as Python. Here they are parsed, and written anew from what a strict grammar
allows; nothing else is handed on.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

MOST_CHARACTERS = 4_000
_LARGEST = 2**63
_LARGEST_EXPONENT = 16
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})

# sympy's and torch's functions of numbers, as sympy.srepr writes them
_FUNCTIONS = frozenset(
    {
        *("Add", "Mul", "Pow", "Max", "Min", "Abs", "floor", "ceiling", "Mod", "And", "Or", "Not"),
        *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan"),
        *("GreaterThan", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Rational", "Piecewise", "ITE"),
        *("ExprCondPair", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv"),
        *("CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow"),
        *("FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat"),
        *("TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity"),
    }
)
_CONSTANTS = frozenset({"true", "false", "oo"})
_SYMBOL = re.compile(r"(s|u|zf|zuf)\d{1,6}")
_NUMBER = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d{1,3})?")

# what guards call: of an input L['x'] its sizes; functions of numbers
_GUARD_METHODS = frozenset({"size", "stride", "storage_offset"})
_GUARD_FUNCTIONS = frozenset({"Mod", "PythonMod", "FloorDiv", "Max", "Min", "max", "min", "abs"})
_GUARD_OPERATORS = (
    *(ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod, ast.Pow, ast.USub, ast.Not),
    *(ast.And, ast.Or, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_KEY = re.compile(r"[\w.]*")


def is_symbol(name: str) -> bool:
    """Whether `name` is one that torch.export gives to an unknown size."""
    return _SYMBOL.fullmatch(name) is not None


def clean_size(text: str) -> str | None:
    """A size expression written anew; None if there is anything but arithmetic in it."""
    return _clean(text, _is_size)


def clean_guard(text: str) -> str | None:
    """An assumption about the inputs' sizes written anew; None if it is anything else."""
    return _clean(text, _is_guard)


def _clean(text: str, allowed: Callable[[ast.expr], bool]) -> str | None:
    if len(text) > MOST_CHARACTERS:
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return ast.unparse(tree) if allowed(tree) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_size(tree: ast.expr) -> bool:
    match tree:
        case ast.Constant(value=value):
            return _is_number(value)
        case ast.Name(id=name):
            return is_symbol(name) or name in _CONSTANTS
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_size(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult(), right=right):
            return _is_size(left) and _is_size(right)
        case ast.Call(func=ast.Name("Symbol"), args=[ast.Constant(str(name))], keywords=facts):
            return is_symbol(name) and all(_is_fact(fact) for fact in facts)
        case ast.Call(func=ast.Name("Integer"), args=[number], keywords=[]):
            return _is_integer(number, _LARGEST)
        case ast.Call(func=ast.Name("Float"), args=[ast.Constant(str(number))], keywords=facts):
            exact = [f.arg == "precision" and _is_integer(f.value, 256) for f in facts]
            return _NUMBER.fullmatch(number) is not None and all(exact)
        case ast.Call(func=ast.Name(name), args=[base, exponent], keywords=[]) if name in _POWERS:
            return _is_size(base) and _is_small(exponent)
        case ast.Call(func=ast.Name(name), args=items, keywords=[]) if name in _FUNCTIONS:
            return all(map(_is_size, items))
    return False


def _is_fact(fact: ast.keyword) -> bool:
    """`positive=True`."""
    known = fact.arg in ("positive", "integer", "nonnegative", "real", "finite")
    return known and isinstance(fact.value, ast.Constant) and isinstance(fact.value.value, bool)


def _is_small(tree: ast.expr) -> bool:
    match tree:
        case ast.Call(func=ast.Name("Integer"), args=[number]):
            return _is_integer(number, _LARGEST_EXPONENT)
        case ast.Call(func=ast.Name("Rational"), args=[above, below]):
            return _is_integer(above, _LARGEST_EXPONENT) and _is_integer(below, _LARGEST_EXPONENT)
    return _is_integer(tree, _LARGEST_EXPONENT)


def _is_integer(tree: ast.expr, largest: int) -> bool:
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        tree = tree.operand
    return isinstance(tree, ast.Constant) and type(tree.value) is int and abs(tree.value) <= largest


def _is_number(value: object) -> bool:
    return isinstance(value, bool | float) or (type(value) is int and abs(value) <= _LARGEST)


def _is_guard(tree: ast.expr) -> bool:
    match tree:
        case ast.Constant(value=value):
            return _is_number(value)
        case ast.UnaryOp(op=sign, operand=operand):
            return isinstance(sign, _GUARD_OPERATORS) and _is_guard(operand)
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            return _is_guard(left) and _is_integer(right, _LARGEST_EXPONENT)
        case ast.BinOp(left=left, op=sign, right=right):
            return isinstance(sign, _GUARD_OPERATORS) and _is_guard(left) and _is_guard(right)
        case ast.BoolOp(values=values):
            return all(map(_is_guard, values))
        case ast.Compare(left=left, ops=signs, comparators=others):
            known = all(isinstance(sign, _GUARD_OPERATORS) for sign in signs)
            return known and all(map(_is_guard, [left, *others]))
        case ast.Subscript(value=ast.Call() as call, slice=index):
            return _is_question(call) and _is_integer(index, 64)
        case ast.Call(func=ast.Name(name), args=items, keywords=[]) if name in _GUARD_FUNCTIONS:
            return all(map(_is_guard, items))
        case ast.Call(func=ast.Attribute(ast.Name("math"), name), args=[item], keywords=[]):
            return name in ("trunc", "floor", "ceil", "sqrt") and _is_guard(item)
        case ast.Call():
            return _is_question(tree)
    return _is_input(tree)


def _is_question(call: ast.Call) -> bool:
    match call:
        case ast.Call(func=ast.Attribute(value=asked, attr=name), args=[], keywords=[]):
            return name in _GUARD_METHODS and _is_input(asked)
    return False


def _is_input(tree: ast.expr) -> bool:
    """`L['x']`, `L['args'][0]['image']`."""
    match tree:
        case ast.Subscript(value=ast.Name("L"), slice=ast.Constant(str(key))):
            return _KEY.fullmatch(key) is not None
        case ast.Subscript(value=inner, slice=ast.Constant(str(key))):
            return _KEY.fullmatch(key) is not None and _is_input(inner)
        case ast.Subscript(value=inner, slice=index):
            return _is_integer(index, 10_000) and _is_input(inner)
    return False
