"""A stranger's `.pt2` file runs nothing, and ends in one sentence."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from storage.forging import (
    PROGRAM,
    SAMPLES,
    Entries,
    Marks,
    exported,
    packed,
    saved,
    with_call,
    with_json,
    with_program,
    zipped,
)

from sepify.errors import FileError
from sepify.formats.pt2_read import load_exported

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


@pytest.fixture(scope="module")
def good() -> Entries:
    return exported()


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is made if anything of the file runs: by a pickle, a module that is imported
    ("marking"), or Python source."""
    mark = tmp_path / "ran"
    modules = tmp_path / "modules"
    modules.mkdir()
    source = f"import enum, os\nos.mkdir({str(mark)!r})\nx = dict\nclass E(enum.Enum):\n    a = 1\n"
    (modules / "marking.py").write_text(source)
    monkeypatch.syspath_prepend(str(modules))
    sys.modules.pop("marking", None)
    yield mark
    sys.modules.pop("marking", None)


def refused(content: bytes, tmp_path: Path, mark: Path) -> str:
    """What is said of a file that is refused; nothing of it ran."""
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    try:
        program = load_exported(path)
        program.module()  # source code is executed here
    except FileError as error:
        message = str(error)
    else:
        pytest.fail(f"it was loaded; something ran: {mark.exists()}")
    assert not mark.exists()
    assert "net.pt2" in message
    assert "\n" not in message
    assert len(message) < 500
    return message


Forge = Callable[[Entries, Path], bytes]


def _add(name: str) -> Forge:
    return lambda good, mark: packed({**good, name: saved(Marks(mark))})


def _second_program(good: Entries, mark: Path) -> bytes:
    more = {
        "models/other.json": good[PROGRAM],
        "data/sample_inputs/other.pt": saved(Marks(mark)),
        "data/weights/other_weights_config.json": good[WEIGHTS],
        "data/constants/other_constants_config.json": good[CONSTANTS],
    }
    return packed({**good, **more})


def _other_root(good: Entries, mark: Path) -> bytes:
    bad = {**good, SAMPLES: saved(Marks(mark))}
    one = [(f"archive/{name}", content) for name, content in bad.items()]
    return zipped(*one, *((f"zz/{name}", content) for name, content in good.items()))


def _duplicate(first: bool, spelled: str) -> Forge:
    def forge(good: Entries, mark: Path) -> bytes:
        rest = [(f"archive/{name}", content) for name, content in good.items()]
        bad = (f"archive/{spelled}", saved(Marks(mark)))
        return zipped(bad, *rest) if first else zipped(*rest, bad)

    return forge


def _moved_up(good: Entries, mark: Path) -> bytes:
    pairs = [(f"archive/{name}", content) for name, content in good.items()]
    return zipped(*pairs, ("archive/data/../models/other.json", b"{}"))


ENTRIES: dict[str, Forge] = {
    "legacy weights": _add("data/weights/model.pt"),
    "legacy constants": _add("data/constants/model.pt"),
    "sample inputs": _add(SAMPLES),
    "native code": _add("data/aotinductor/model/model.so"),
    "second program": _second_program,
    "other root": _other_root,
    "duplicate before": _duplicate(True, SAMPLES),
    "duplicate after": _duplicate(False, SAMPLES),
    "duplicate in capitals": _duplicate(False, "data/sample_inputs/MODEL.pt"),
    "duplicate with a backslash": _duplicate(False, "data\\sample_inputs\\model.pt"),
    "path that goes up": _moved_up,
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries(good: Entries, tmp_path: Path, mark: Path, name: str) -> None:
    refused(ENTRIES[name](good, mark), tmp_path, mark)


@pytest.mark.parametrize("record", ["custom_obj_0", "opaque_obj_0", "tensor_0", "weights"])
@pytest.mark.parametrize("pickled", [True, False])
def test_constants_that_are_pickles(
    good: Entries, tmp_path: Path, mark: Path, record: str, pickled: bool
) -> None:
    def change(config: Any) -> None:
        config["config"]["evil"] = {
            "path_name": record,
            "is_param": False,
            "use_pickle": pickled,
            "tensor_meta": None,
        }

    entries = {**with_json(good, CONSTANTS, change), f"data/constants/{record}": saved(Marks(mark))}
    assert "pickled Python object" in refused(packed(entries), tmp_path, mark)


def _tree(node: Any, where: str = "out_spec") -> Callable[[Any], None]:
    def change(program: Any) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        protocol, tree = json.loads(signature[where])
        signature[where] = json.dumps((protocol, node(tree)))

    return change


def _factory(tree: Any) -> Any:
    context = {"default_factory_module": "marking", "default_factory_name": "x", "dict_context": []}
    return {"type": "collections.defaultdict", "context": context, "children_spec": [tree]}


def _enumeration(kind: str) -> Callable[[Any], Any]:
    context = json.dumps([{"__enum__": True, "fqn": "marking:E", "name": "a"}])
    return lambda tree: {"type": kind, "context": context, "children_spec": [tree]}


def _keyword(tree: Any) -> Any:
    args, kwargs = tree["children_spec"]
    name = "x=__import__('marking')"
    kwargs["context"] = json.dumps([name])
    kwargs["children_spec"] = args["children_spec"]
    return {**tree, "children_spec": [{**args, "children_spec": []}, kwargs]}


def _each(found: Callable[[Any], list[tuple[Any, Any]]], value: Any) -> Callable[[Any], None]:
    """A change of every place that `found` tells of (container, key)."""

    def change(program: Any) -> None:
        places = found(program["graph_module"])
        assert places
        for container, key in places:
            container[key] = value

    return change


def _deep(program: Any) -> None:
    argument: Any = {"as_none": True}
    for _ in range(400):
        argument = {"as_string_to_argument": {"a": argument}}
    program["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = argument


def _rename(old: str, new: str) -> Callable[[Any], None]:
    """A change of one name wherever it stands."""

    def change(program: Any) -> None:
        text = json.dumps(program).replace(json.dumps(old), json.dumps(new))
        program.clear()
        program.update(json.loads(text))

    return change


INJECTED = "y\n    __import__('marking')\n    z"
PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "defaultdict": _tree(_factory),
    "defaultdict of the inputs": _tree(_factory, "in_spec"),
    **{
        f"enumeration in {kind}": _tree(_enumeration(kind))
        for kind in ("builtins.dict", "builtins.tuple", "collections.deque", "builtins.list")
    },
    "keyword": _tree(_keyword, "in_spec"),
    "named tuple": _tree(
        lambda tree: (
            {"type": "collections.namedtuple", "context": "os.stat_result"}
            | {"children_spec": [tree]}
        )
    ),
    "import module": with_call("torch.ops.import_module", "marking"),
    "load library": with_call("torch.ops.load_library", "marking.so"),
    "load hub": with_call("torch.hub.load", "marking"),
    "torch.load": with_call("torch.load", "marking"),
    "torch.os": with_call("torch.os.system", "true"),
    "builtins": with_call("torch.builtins.exec", "import marking"),
    "attribute": with_call("_operator.attrgetter", "x"),
    "operator's loader": with_call("_operator.__loader__.load_module", "marking"),
    "namespace's class": with_call("torch.ops.aten.__class__.mro", "x"),
    "sizes": with_call("torch.sym_int.__globals__", "x"),
    "from_file": with_call("torch.ops.aten.from_file.default", "/etc/passwd"),
    "load_tensor": with_call("torch.ops.debugprims.load_tensor.default", "/etc/passwd"),
    "pool": with_call("torch.ops.inductor._alloc_from_pool.default", "x"),
    "network": with_call("torch.ops.c10d.send.default", "x"),
    "unchecked": with_call("torch.ops.aten._sparse_coo_tensor_unsafe.default", "x"),
    "other higher order": with_call("torch.ops.higher_order.print.default", "x"),
    "extension": with_call("#marking:x", "x"),
    "operator as an argument": _each(
        lambda m: [(m["graph"]["nodes"][0]["inputs"][0], "arg")], {"as_operator": "torch.os.system"}
    ),
    "name of a node": _each(lambda m: [(m["graph"]["nodes"][0], "name")], INJECTED),
    "name of an input": _rename("x", INJECTED),
    "name of a weight": _rename("conv.weight", 'conv"),__import__("marking").weight'),
    "name of an argument": _each(
        lambda m: [(n["inputs"][0], "name") for n in m["graph"]["nodes"]], "x=__import__('marking')"
    ),
    "names of the call": _each(
        lambda m: [(m["module_call_graph"][0]["signature"], "forward_arg_names")],
        ["x=__import__('marking')"],
    ),
    "guards": lambda p: p.update(guards_code=["__import__('marking') or L['x'].size()[0] == 2"]),
    "guards of sizes": lambda p: p.update(guards_code=["L['x\"+exec(\"'].size()[0] == 2"]),
    "guards that index": lambda p: p.update(guards_code=["L['x'].size.__self__[0] == 2"]),
    "ranges": lambda p: p.update(
        range_constraints={"__import__('marking')": {"min_val": 1, "max_val": 2}}
    ),
    "custom object": _each(
        lambda m: [(m["graph"], "custom_obj_values")],
        {"o": {"name": "o", "class_fqn": "marking.E"}},
    ),
    "other type": _each(lambda m: [(m["graph"], "nodes")], {"a": "b"}),
    "deep": _deep,
    "sparse": _each(lambda m: [(v, "layout") for v in m["graph"]["tensor_values"].values()], 1),
    "other device": _each(
        lambda m: [(v, "device") for v in m["graph"]["tensor_values"].values()],
        {"type": "marking", "index": None},
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(good: Entries, tmp_path: Path, mark: Path, name: str) -> None:
    refused(with_program(good, PROGRAMS[name]), tmp_path, mark)


EXPRESSIONS = (
    "__import__('marking')",
    "Symbol('s0').func.__globals__",
    "Symbol(__import__('marking'))",
    "Lambda(Symbol('s0'), 1)(2)",
    "sympify('__import__(\\'marking\\')')",
    "lambdify(Symbol('s0'), '__import__(\\'marking\\')')(1)",
    "Function('exec')",
    "S('__import__(\\'marking\\')')",
    "Symbol('s0', __doc__=1)",
    "Float(__import__('marking'))",
    "Integer('1')",
    "9**9**9**9",
    "Pow(Integer(9), Integer(999999999))",
    "Symbol('x' * 99999999)",
    "(lambda: 1)()",
    "f'{1}'",
    "s0 if s1 else s2",
    "[n for n in s0]",
    "(" * 3000 + "s0" + ")" * 3000,
)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions(good: Entries, tmp_path: Path, mark: Path, expression: str) -> None:
    def change(program: Any) -> None:
        sizes = program["graph_module"]["graph"]["sym_int_values"]
        for value in sizes.values():
            if "as_expr" in value:
                value["as_expr"]["expr_str"] = expression
        assert any("as_expr" in value for value in sizes.values())

    assert "could run code" in refused(with_program(good, change), tmp_path, mark)


def test_what_only_describes_is_left_out(good: Entries, tmp_path: Path, mark: Path) -> None:
    def change(program: Any) -> None:
        for node in program["graph_module"]["graph"]["nodes"]:
            node["metadata"]["source_fn_stack"] = "a,torch.ops.load_library"
            node["metadata"]["stack_trace"] = 'File "x", line 1\n__import__("marking")'
            node["metadata"]["from_node"] = json.dumps([{"name": "marking"}])
            node["unheard of"] = "marking"
        program["verifiers"] = ["marking", "TRAINING"]

    (tmp_path / "net.pt2").write_bytes(with_program(good, change))
    program = load_exported(tmp_path / "net.pt2")
    assert program.module()(torch.ones(2, 3, 8, 8)).shape == (2, 4, 3, 6)
    assert not mark.exists()
    assert not any("from_node" in node.meta for node in program.graph.nodes if "from" in node.meta)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sizes", [{"as_int": 4}, {"as_int": 3}, {"as_int": 3}, {"as_int": 300}]),
        ("sizes", [{"as_int": 2**62}, {"as_int": 3}, {"as_int": 3}, {"as_int": 3}]),
        ("sizes", [{"as_int": -4}, {"as_int": 3}, {"as_int": 3}, {"as_int": 3}]),
        ("sizes", [{"as_int": 4}, {"as_int": 3}, {"as_int": 3}]),
        ("strides", [{"as_int": 9999}, {"as_int": 9}, {"as_int": 3}, {"as_int": 1}]),
        ("strides", [{"as_int": -27}, {"as_int": 9}, {"as_int": 3}, {"as_int": 1}]),
        ("storage_offset", {"as_int": 1}),
        ("storage_offset", {"as_int": -1}),
        ("dtype", 8),
        ("dtype", 99),
    ],
)
def test_views_beyond_their_record(
    good: Entries, tmp_path: Path, mark: Path, field: str, value: Any
) -> None:
    def change(config: Any) -> None:
        config["config"]["conv.weight"]["tensor_meta"][field] = value

    refused(packed(with_json(good, WEIGHTS, change)), tmp_path, mark)


@pytest.mark.parametrize("kept", [0, 4, 431])
def test_short_records(good: Entries, tmp_path: Path, mark: Path, kept: int) -> None:
    record = json.loads(good[WEIGHTS])["config"]["conv.weight"]["path_name"]
    entry = f"data/weights/{record}"
    told = refused(packed({**good, entry: good[entry][:kept]}), tmp_path, mark)
    assert f"does not fit its record of {kept} bytes" in told
    without = {name: content for name, content in good.items() if name != entry}
    assert "is missing" in refused(packed(without), tmp_path, mark)


def test_a_bomb(good: Entries, tmp_path: Path, mark: Path) -> None:
    pairs = [(f"archive/{name}", content) for name, content in good.items()]
    bomb = zipped(*pairs, ("archive/extra/x", bytes(2**27)), kind=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**18
    assert "unpacks to" in refused(bomb, tmp_path, mark)


def test_numbers_without_end(good: Entries, tmp_path: Path, mark: Path) -> None:
    text = good[PROGRAM].decode().replace('"minor": ', '"minor": ' + "1" * 5_000)
    assert "cannot be read" in refused(packed({**good, PROGRAM: text.encode()}), tmp_path, mark)
    nested = b"[" * 100_000
    assert "cannot be read" in refused(packed({**good, PROGRAM: nested}), tmp_path, mark)
