"""aten operators -> what a torch.fx graph calls: torch's own functions and methods, by schema.

Python's bindings are generated from the same schemas as TorchScript's operators, so a positional
call means the same in both. They are preferred to `torch.ops.aten.*` because torch.jit.script,
pickle and people read them; an operator without a generated binding is called through its packet.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

# c10::ScalarType and c10::MemoryFormat: TorchScript holds these as plain ints
DTYPES: tuple[torch.dtype, ...] = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex32,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.qint8,
    torch.quint8,
    torch.qint32,
    torch.bfloat16,
)
MEMORY_FORMATS: tuple[torch.memory_format, ...] = (
    torch.contiguous_format,
    torch.preserve_format,
    torch.channels_last,
    torch.channels_last_3d,
)
LAYOUTS: tuple[torch.layout, ...] = (torch.strided, torch.sparse_coo)

Target = Callable[..., Any] | str  # a str names a method of the first argument


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operator's schema."""

    name: str
    kind: str  # "Tensor", "int", "Optional[ScalarType]", ...
    keyword_only: bool
    has_default: bool
    default: Any
    written: bool  # the operator writes into it


@dataclass(frozen=True)
class Operator:
    """An operator: its bare name, its parameters, and what to call for it."""

    name: str
    parameters: tuple[Parameter, ...]
    tags: frozenset[torch.Tag]
    returns_tensors: bool

    @property
    def in_place(self) -> bool:
        """Whether it changes its first argument (and returns it)."""
        return self.parameters[0].written if self.parameters else False

    @property
    def functional(self) -> str | None:
        """The name of the operator that returns what an in-place one writes, if there is one."""
        name = self.name.removesuffix("_")
        return name if name != self.name and hasattr(torch.ops.aten, name) else None


@cache
def operator_of(schema_text: str) -> Operator:
    """The operator of a TorchScript node's schema, such as `aten::relu(Tensor self) -> Tensor`."""
    schema = torch._C.parse_schema(schema_text)
    name = schema.name.partition("::")[2]
    overload = getattr(torch.ops.aten, name, None)
    overload = getattr(overload, schema.overload_name or "default", None)
    parameters = tuple(
        Parameter(
            argument.name,
            str(argument.real_type),
            argument.kwarg_only,
            argument.has_default_value(),
            argument.default_value if argument.has_default_value() else None,
            argument.alias_info is not None and argument.alias_info.is_write,
        )
        for argument in schema.arguments
    )
    returns = any("Tensor" in str(result.type) for result in schema.returns)
    return Operator(name, parameters, frozenset(getattr(overload, "tags", ())), returns)


@cache
def target_of(name: str) -> Target | None:
    """What to call for `aten::<name>`; None if this torch has no such operator."""
    if not name.startswith("__"):
        for namespace in (torch, torch._C._nn):
            function = getattr(namespace, name, None)
            if isinstance(function, types.BuiltinFunctionType):
                return function
        if isinstance(getattr(Tensor, name, None), types.MethodDescriptorType):
            return name
    packet: Target | None = getattr(torch.ops.aten, name, None)
    return packet


def call_target(target: Target, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call a function, or the method that `target` names."""
    if isinstance(target, str):
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)


def arguments_of(
    operator: Operator, values: Sequence[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments: enumerations as torch's objects, defaults left out."""
    positional: list[tuple[Parameter, Any]] = []
    keywords: dict[str, Any] = {}
    for parameter, value in zip(operator.parameters, values, strict=True):
        value = _enumeration(parameter.kind, value)
        if not parameter.keyword_only:
            positional.append((parameter, value))
        elif not _is_default(parameter, value):
            keywords[parameter.name] = value
    while positional and _is_default(*positional[-1]):
        positional.pop()
    return tuple(value for _, value in positional), keywords


def by_name(operator: Operator, values: Sequence[Any]) -> dict[str, Any]:
    """The values under the names of the operator's parameters, enumerations as torch's objects."""
    named = {}
    for parameter, value in zip(operator.parameters, values, strict=True):
        # aten::to.prim_dtype and its like declare an int
        kind = "ScalarType" if parameter.name == "dtype" else parameter.kind
        named[parameter.name] = _enumeration(kind, value)
    return named


def takes_numbers(name: str) -> bool:
    """Whether the operator's second operand may be a Python number instead of a tensor."""
    packet = getattr(torch.ops.aten, name, None)
    return packet is not None and any("Scalar" in overload for overload in packet.overloads())


def dtype_index(dtype: torch.dtype) -> int:
    """TorchScript's number for a dtype."""
    return DTYPES.index(dtype)


def _enumeration(kind: str, value: Any) -> Any:
    if type(value) is not int:
        return value
    if "ScalarType" in kind:
        return DTYPES[value]
    if "MemoryFormat" in kind:
        return MEMORY_FORMATS[value]
    if "Layout" in kind:
        return LAYOUTS[value]
    return value


def _is_default(parameter: Parameter, value: Any) -> bool:
    if not parameter.has_default:
        return False
    if value is None or parameter.default is None:
        return value is parameter.default
    known = isinstance(value, (bool, int, float, str)) or (
        isinstance(value, list) and all(isinstance(item, (int, float)) for item in value)
    )
    if isinstance(value, (torch.memory_format, torch.layout, torch.dtype)):
        return bool(_enumeration(parameter.kind, parameter.default) == value)
    return known and bool(value == parameter.default)
