"""A `.pt2` archive, judged entry by entry, and written anew for torch to load.

`torch.export.load` (torch 2.9 to 2.13) runs what a file says: it unpickles tensors marked
`use_pickle`, older layouts, custom objects and sample inputs; loads native libraries; evaluates
sizes and assumptions as Python; imports what trees name; resolves operators by dotted path; and
writes the names of nodes and arguments into source code that it executes. None of this reaches it
unread: the archive that torch opens is written here.
"""

from __future__ import annotations

import io
import json
import keyword
import math
import operator
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch._export.serde import schema
from torch._export.serde.schema import SCHEMA_VERSION
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

from sepify.errors import FileError
from sepify.storage.archives.bounds import fits
from sepify.storage.archives.contents import Contents, written
from sepify.storage.archives.expressions import clean_guard, clean_size, is_symbol
from sepify.storage.archives.operators import why_refused
from sepify.storage.archives.saved import read_saved
from sepify.storage.archives.schema import Rules, SchemaRefusal, clean
from sepify.storage.archives.trees import TreeRefusal, clean_tree, keyword_names

_AGAIN = "export the model again with this torch, or use the torch that wrote it"
_PROGRAM = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_LAYOUT = {"archive_format": b"pt2", "archive_version": b"0"}
# kind of stored tensor -> how the records of it are called
_PAYLOADS = {"weights": re.compile(r"weight_\d{1,9}"), "constants": re.compile(r"tensor_\d{1,9}")}
_PATH = re.compile(r"[\w.\-]+")
_DUNDER = re.compile(r"__i?(and|or|xor|lshift|rshift)__")
_SIZE_OPERATORS = frozenset(
    {
        *("eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul", "add", "sub", "floordiv", "mod"),
        *("pow", "truediv", "and_", "or_", "lshift", "rshift", "getitem", "not_", "abs"),
    }
)
_NUMBER_FUNCTIONS = frozenset(
    name
    for name in dir(math)
    if not name.startswith("_") and name not in ("factorial", "comb", "perm")
)
# regions, branches and loops of an exported graph: nothing but graphs of their own
_REGIONS = frozenset(
    {
        *("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "while_loop", "map"),
        *("map_impl", "scan", "associative_scan", "tag_activation_checkpoint", "invoke_subgraph"),
    }
)


def clean_program(contents: Contents) -> io.BytesIO:
    """The archive that torch is given in the place of a stranger's: the same program.

    Raises FileError, in one sentence that names it, for what could run code or reach beyond its
    own records, and for what this torch cannot read.
    """
    path = contents.path
    _require_layout(contents)
    program = _json(contents, _PROGRAM)
    _require_version(contents, program)
    try:
        entries = {**_LAYOUT, "byteorder": b"little", ".data/version": b"6\n"}
        entries[_PROGRAM] = _dumped(clean(schema.ExportedProgram, program, _RULES))
        for kind in _PAYLOADS:
            name = f"data/{kind}/model_{kind}_config.json"
            config = clean(schema.PayloadConfig, _json(contents, name), _RULES)
            entries |= _payloads(contents, kind, config["config"])
            entries[name] = _dumped(config)
    except (SchemaRefusal, TreeRefusal) as refusal:
        raise FileError(f"{path} {refusal}") from refusal
    except RecursionError as error:
        raise FileError(f"{path} is damaged: its graph is nested too deep") from error
    entries[_SAMPLES] = _samples(contents)
    return written(entries)


def _require_layout(contents: Contents) -> None:
    path = contents.path
    if "archive_format" not in contents:
        raise FileError(f"{path} {_what_instead(contents)}")
    if any(name.startswith("data/aotinductor/") for name in contents.entries):
        raise FileError(
            f"{path} is compiled native code (AOTInductor), which sepify does not run; "
            "save the exported program itself with torch.export.save"
        )
    for name in contents.entries:
        kind = re.fullmatch(r"data/(weights|constants)/(\w+)\.pt", name)
        if kind:
            raise FileError(
                f"{path} holds its {kind[1]} as a pickled Python object, which could run code; "
                f"{_AGAIN}"
            )
        if name.startswith("models/") and name != _PROGRAM:
            raise FileError(f"{path} holds more than one program; save one at a time")
    for name, wanted in _LAYOUT.items():
        if name not in contents or contents.read(name) != wanted:
            raise FileError(f"{path} is in the layout of another torch; {_AGAIN}")
    if "byteorder" in contents and contents.read("byteorder") != b"little":
        raise FileError(f"{path} was saved on a big-endian machine, and is not read here")


def _what_instead(contents: Contents) -> str:
    """What a zip archive is, if not an exported program."""
    if any(name.endswith("serialized_exported_program.json") for name in contents.entries):
        return f"is an exported program in the layout of torch 2.7 and older; {_AGAIN}"
    if "constants.pkl" in contents:
        return "is TorchScript, not an exported program; name it something.pt"
    if "data.pkl" in contents:
        return "is a pickled Python object or a state_dict (torch.save), not an exported program"
    return "is a zip archive but not an exported program; make one with torch.export.save"


def _json(contents: Contents, name: str) -> Any:
    if name not in contents:
        raise FileError(
            f"{contents.path} is in the layout of another torch, without {name}; {_AGAIN}"
        )
    try:
        return json.loads(contents.read(name))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{contents.path} is damaged: {name} cannot be read ({error})") from error


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def _require_version(contents: Contents, program: Any) -> None:
    try:
        version = program["schema_version"]["major"]
    except (KeyError, TypeError) as error:
        raise FileError(f"{contents.path}: {_PROGRAM} has no schema version; {_AGAIN}") from error
    if version != SCHEMA_VERSION[0]:
        writer = f"torch {program.get('torch_version') or '(of unknown version)'}"
        raise FileError(
            f"{contents.path} was written by {writer} in schema {version}, and torch "
            f"{torch.__version__} reads schema {SCHEMA_VERSION[0]}; {_AGAIN}"
        )


def _payloads(contents: Contents, kind: str, config: Mapping[str, Any]) -> dict[str, bytes]:
    """The records that a config names, each large enough for every tensor that lies in it."""
    records: dict[str, bytes] = {}
    dtypes: dict[str, int] = {}
    for name, item in config.items():
        record, meta = item["path_name"], item["tensor_meta"]
        if item["use_pickle"] or meta is None or not _PAYLOADS[kind].fullmatch(record):
            raise SchemaRefusal(
                f"holds '{name}' as a pickled Python object, which could run code; export the "
                "model again with plain tensors"
            )
        if not _PATH.fullmatch(name):
            raise SchemaRefusal(f"holds a tensor with a name that no module has: {name!r:.60}")
        entry = f"data/{kind}/{record}"
        if entry not in contents:
            raise SchemaRefusal(f"is damaged: the record {entry} of '{name}' is missing")
        if entry not in records:
            records[entry] = contents.read(entry)
        if dtypes.setdefault(entry, meta["dtype"]) != meta["dtype"]:
            raise SchemaRefusal(f"holds the record {entry} in two types of number")
        numbers = [[size.get("as_int") for size in meta[field]] for field in ("sizes", "strides")]
        offset = meta["storage_offset"].get("as_int")
        width = _SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]].itemsize
        elements, rest = divmod(len(records[entry]), width)
        if rest or not fits(numbers[0], numbers[1], offset, elements):
            raise SchemaRefusal(
                f"holds '{name}' of sizes {numbers[0]!s:.60}, which does not fit its record of "
                f"{len(records[entry])} bytes"
            )
    return records


def _samples(contents: Contents) -> bytes:
    """The sample inputs as plain tensors, saved anew; nothing where there are none."""
    if not contents.size(_SAMPLES):
        return b""
    content = contents.read(_SAMPLES)
    try:
        value = read_saved(contents.path, content)
    except FileError as error:
        raise FileError(
            f"{contents.path} holds sample inputs that are pickled Python objects, which could run "
            "code, or are damaged; export the model again with plain tensors as inputs"
        ) from error
    if not isinstance(value, tuple | dict):
        raise FileError(f"{contents.path} is damaged: its sample inputs are no arguments")
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


# --- what is asked about single values of the program


def _target(text: str) -> str:
    if _is_operator(text):
        return text
    why = None
    if match := re.fullmatch(r"torch\.ops\.(\w+)\.(\w+)(\.\w+)?", text):
        why = why_refused(match[1], match[2])
    if why:
        raise SchemaRefusal(f"calls the operator {text}, which {why}")
    raise _strange(text)


def _strange(text: str) -> SchemaRefusal:
    return SchemaRefusal(
        f"holds {text[:60]!r} where an operator, a size or a name belongs, which could run code; "
        "it was not made by torch.export.save"
    )


def _is_operator(text: str) -> bool:
    """An operator of a library, arithmetic, or torch's arithmetic on sizes."""
    *place, name = text.split(".")
    if place == ["_operator"]:
        return name in _SIZE_OPERATORS and hasattr(operator, name)
    if place == ["math"]:
        return name in _NUMBER_FUNCTIONS
    if place == ["torch"]:
        return re.fullmatch(r"_?sym_\w+", name) is not None
    if place == ["torch", "ops", "higher_order"]:
        return name in _REGIONS
    match = re.fullmatch(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", text)
    if match is None or match[3].startswith("__"):
        return False
    if match[2].startswith("__") and not _DUNDER.fullmatch(match[2]):  # of Python, not of torch
        return False
    return why_refused(match[1], match[2]) is None


def _size(text: str) -> str:
    made = clean_size(text)
    if made is None:
        raise _strange(text)
    return made


def _guards(texts: list[str]) -> list[str]:
    made = []
    for text in texts:
        guard = clean_guard(text)
        if guard is None:
            raise _strange(text)
        made.append(guard)
    return made


def _name(text: str | None) -> str | None:
    """torch writes names into source code: they are identifiers or nothing."""
    if text and not text.isidentifier():
        raise _strange(text)
    return text


def _names(texts: list[str] | None) -> list[str] | None:
    for text in texts or ():
        if not text.isidentifier() or keyword.iskeyword(text):
            raise _strange(text)
    return texts


def _keys(values: dict[str, Any]) -> dict[str, Any]:
    for text in values:
        _name(text)
    return values


def _path(text: str) -> str:
    """The dotted name of a tensor or a module."""
    if text and not _PATH.fullmatch(text):
        raise _strange(text)
    return text


def _ranges(values: dict[str, Any]) -> dict[str, Any]:
    for text in values:
        if not is_symbol(text):
            raise _strange(text)
    return values


def _metadata(values: dict[str, str]) -> dict[str, str]:
    """Where a node stood in the model: the one thing that capture asks for."""
    stack = values.get("nn_module_stack", "")
    return {"nn_module_stack": stack} if stack.isprintable() and stack else {}


def _call(signature: dict[str, Any]) -> dict[str, Any]:
    for name in ("in_spec", "out_spec"):
        signature[name] = clean_tree(signature[name])
    _names([str(name) for name in keyword_names(signature["in_spec"])])
    return signature


def _tensor(meta: dict[str, Any]) -> dict[str, Any]:
    if meta["layout"] != schema.Layout.Strided or not meta["dtype"]:
        raise SchemaRefusal("holds a tensor that is not dense; export the model with dense tensors")
    return meta


def _device(device: dict[str, Any]) -> dict[str, Any]:
    """Everything is loaded onto the CPU."""
    if device["type"] not in ("cpu", "cuda"):
        raise SchemaRefusal(f"is made for the device {device['type']!r:.40}, which is not known")
    return {"type": "cpu", "index": None}


def _custom(_: Any) -> Any:
    raise SchemaRefusal("holds objects other than tensors; export a model of tensors alone")


def _verifiers(names: list[str]) -> list[str]:
    return [name for name in names if name in ("ATEN", "TRAINING")]


_RULES: Rules = {
    "Node.target": _target,
    "Argument.as_operator": _target,
    "SymExpr.expr_str": _size,
    "ExportedProgram.guards_code": _guards,
    "ExportedProgram.range_constraints": _ranges,
    "ExportedProgram.verifiers": _verifiers,
    "Node.metadata": _metadata,
    "GraphModule.metadata": lambda _: {},
    **{
        f"{place}.name": _name
        for place in (
            *("Node", "TensorArgument", "TokenArgument", "GraphArgument", "NamedArgument"),
            "InputToConstantInputSpec",
        )
    },
    **{f"{kind}.as_name": _name for kind in ("SymIntArgument", "SymFloatArgument")},
    "SymBoolArgument.as_name": _name,
    **{
        f"Graph.{kind}_values": _keys
        for kind in ("tensor", "sym_int", "sym_bool", "sym_float", "custom_obj")
    },
    "InputToParameterSpec.parameter_name": _path,
    "InputToBufferSpec.buffer_name": _path,
    "InputToTensorConstantSpec.tensor_constant_name": _path,
    **{f"{kind}MutationSpec.buffer_name": _path for kind in ("Buffer",)},
    "ParameterMutationSpec.parameter_name": _path,
    "GradientToParameterSpec.parameter_name": _path,
    "GradientToUserInputSpec.user_input_name": _name,
    "UserInputMutationSpec.user_input_name": _name,
    "ModuleCallEntry.fqn": _path,
    "ModuleCallSignature.forward_arg_names": _names,
    schema.ModuleCallSignature: _call,
    schema.TensorMeta: _tensor,
    schema.Device: _device,
    schema.CustomObjArgument: _custom,
    schema.InputToCustomObjSpec: _custom,
}
