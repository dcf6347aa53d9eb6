"""A stranger's TorchScript file writes nothing, reads nothing, and ends in one sentence."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from storage.forging import Entries, Marks, packed, saved, scripted, zipped
from torch import Tensor, nn

from sepify.capture import capture
from sepify.errors import CaptureError, FileError
from sepify.formats.torchscript_read import load_torchscript
from sepify.storage.archives.contents import open_contents

pytestmark = pytest.mark.filterwarnings("ignore")

X = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    """A convolution and a text."""

    def __init__(self, target: str = "") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.target: str = target

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SavesWhenRun(Net):
    """Writes a file when it is run."""

    def forward(self, x: Tensor) -> Tensor:
        torch.save("pwned", self.target)
        return self.conv(x)


class MapsWhenRun(Net):
    """Writes any bytes to a file when it is run."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.from_file(self.target, True, 12, dtype=torch.uint8)
        return self.conv(x) + y.fill_(65).sum()


class WithState(Net):
    """Has state of its own, which it only assigns."""

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str, bool]:
        return (self.conv.weight, self.target, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.training = state[2]
        self.target = state[1]
        self.conv = self.conv


class SavesWhenLoaded(WithState):
    """Writes a file while it is loaded."""

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.training = state[2]
        self.target = state[1]
        torch.save("pwned", state[1])


class LoopsWhenLoaded(WithState):
    """Never comes back from being loaded."""

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.training = state[2]
        while self.training or not self.training:
            pass


@pytest.fixture(scope="module")
def good() -> Entries:
    return scripted(Net())


def refused(content: bytes, tmp_path: Path, target: Path | None = None) -> str:
    """What is said of a file that is refused; nothing was written."""
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        load_torchscript(path)
    message = str(caught.value)
    assert "net.pt" in message
    assert "\n" not in message
    assert len(message) < 500
    assert target is None or not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt"]
    return message


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (SavesWhenRun, "calls the operator aten::save, which reads or writes files"),
        (MapsWhenRun, "calls the operator aten::from_file, which reads or writes files"),
        (SavesWhenLoaded, r"__setstate__ that does more than assign|aten::save"),
        (LoopsWhenLoaded, "__setstate__ that does more than assign"),
    ],
)
def test_models_that_write(kind: type[Net], told: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert re.search(told, refused(packed(scripted(kind(str(target)))), tmp_path, target))


def test_state_that_is_only_assigned(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.ones(3)

        @torch.jit.export
        def __getstate__(self) -> tuple[Tensor, bool]:
            return (self.scale, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[Tensor, bool]) -> None:
            self.scale = state[0]
            self.training = state[1]

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    (tmp_path / "net.pt").write_bytes(packed(scripted(Plain())))
    module = load_torchscript(tmp_path / "net.pt").module
    assert torch.equal(module(torch.ones(2, 3)), torch.ones(2, 3))


def _with_code(good: Entries, change: tuple[str, str]) -> bytes:
    (name,) = [name for name in good if re.fullmatch(r"code/.*test_hostile_torchscript.*py", name)]
    code = good[name].decode()
    assert change[0] in code
    return packed({**good, name: code.replace(*change).encode()})


BODY = "    conv = self.conv\n"
CODE = {
    "alias": "    f = torch.save\n    f(x, {0})\n",
    "whole namespace": "    t = torch\n    t.save(x, {0})\n",
    "ops": "    _9 = ops.aten.save(x, {0})\n",
    "part of ops": "    a = ops.aten\n    _9 = a.save(x, {0})\n",
    "method": "    _9 = (x).save({0})\n",
    "getattr": "    _9 = getattr(torch, 'save')(x, {0})\n",
    "getattr of a tensor": '    _9 = getattr(x, "save")({0})\n',
    "getattr of getattr": '    _9 = getattr(getattr(ops, "aten"), "save")(x, {0})\n',
    "getattr with a name that is computed": '    _9 = getattr(x, "sa" "ve" + "")({0})\n',
    "fork": "    _9 = fork(torch.save, x, {0})\n",
    "in an expression": "    y = [torch.save(x, {0}) for i in [1]]\n",
    "a function within": "    def g(x: Tensor=torch.save(x, {0})) -> Tensor:\n      return x\n",
    "from_file": "    y = torch.from_file({0}, True, 12, dtype=0)\n",
    "network": '    _9 = ops.prim.rpc_sync("worker", x, {0})\n',
    "c10d": "    _9 = ops.c10d.barrier(x, {0})\n",
    "memory pool": "    y = ops.inductor._alloc_from_pool(x, 10000, 6, [1], [1])\n",
    "unchecked indices": "    y = torch._sparse_coo_tensor_unsafe(x, x, [1])\n",
    "unknown namespace": "    y = ops.mine.read({0})\n",
    "native class": "    y = __torch__.torch.classes.dist_rpc.WorkerInfo({0}, 1)\n",
    "tests of torch": "    y = torch._test_warn_in_autograd(x)\n",
}


@pytest.mark.parametrize("name", CODE)
def test_code(good: Entries, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    line = CODE[name].format(f'"{target}"')
    refused(_with_code(good, (BODY, line + BODY)), tmp_path, target)


def test_code_that_torch_runs_while_it_is_loaded(good: Entries, tmp_path: Path) -> None:
    for change in (
        ("x: Tensor) -> Tensor:", 'x: Tensor, y: str=torch.format("{}", 1)) -> Tensor:'),
        ("  target : str\n", '  target : str\n  k : Final[str] = torch.format("{}", 1)\n'),
    ):
        assert "is loaded" in refused(_with_code(good, change), tmp_path)


def test_code_that_cannot_be_read(good: Entries, tmp_path: Path) -> None:
    for line in ("    y = (\n", "    y = " + "(" * 400 + "x" + ")" * 400 + "\n", "\x00"):
        assert "damaged" in refused(_with_code(good, (BODY, line + BODY)), tmp_path)


def test_the_graph_that_runs_is_asked_as_well(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(MapsWhenRun(str(target)).eval())
    with pytest.raises(CaptureError, match="calls aten::from_file .*reads or writes files"):
        capture(model, (X,))
    assert not target.exists()


# --- records and pickles


@pytest.mark.parametrize("kept", [0, 4, 107])
def test_short_records(good: Entries, tmp_path: Path, kept: int) -> None:
    """They crashed the process, or memory beyond them became weights."""
    for entry in ("data/0", "data/1"):
        told = refused(packed({**good, entry: good[entry][: min(kept, 15)]}), tmp_path)
        assert "numbers of 4 bytes are announced" in told
        rest = {name: content for name, content in good.items() if name != entry}
        assert f"lacks the record '{entry[5:]}'" in refused(packed(rest), tmp_path)


def test_short_constants(tmp_path: Path) -> None:
    frozen = torch.jit.freeze(torch.jit.script(Net().eval()))
    stream = io.BytesIO()
    torch.jit.save(frozen, stream)
    with zipfile.ZipFile(stream) as archive:
        entries = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    told = refused(packed({**entries, "constants/0": b"1234"}), tmp_path)
    assert "numbers of 4 bytes are announced" in told


def _with_tensor(good: Entries, *view: object) -> bytes:
    """The file with its weight described anew: offset, sizes, strides."""
    content = good["data.pkl"]
    offset, sizes, strides = view
    old = b"K\x00(K\x04K\x03K\x03K\x03t"
    start = content.index(old)
    new = _int(offset) + b"(" + b"".join(map(_int, sizes)) + b"t"  # type: ignore[call-overload]
    content = content[:start] + new + content[start + len(old) :]
    old = b"(K\x1bK\tK\x03K\x01t"
    place = content.index(old, start)
    new = b"(" + b"".join(map(_int, strides)) + b"t"  # type: ignore[call-overload]
    content = content[:place] + new + content[place + len(old) :]
    return packed({**good, "data.pkl": content})


def _int(number: object) -> bytes:
    assert isinstance(number, int)
    data = number.to_bytes(8, "little", signed=True)
    return b"\x8a\x08" + data


@pytest.mark.parametrize(
    "view",
    [
        (0, (4, 3, 3, 300), (27, 9, 3, 1)),
        (1, (4, 3, 3, 3), (27, 9, 3, 1)),
        (-1, (4, 3, 3, 3), (27, 9, 3, 1)),
        (0, (4, 3, 3, 3), (2**61, 9, 3, 1)),
        (0, (2**40, 2**40, 1, 1), (0, 0, 0, 0)),
        (0, (-4, 3, 3, 3), (27, 9, 3, 1)),
        (0, (4, 3, 3, 3), (-27, 9, 3, 1)),
        (0, (4, 3, 3), (27, 9, 3, 1)),
        (2**62, (0, 3, 3, 3), (27, 9, 3, 1)),
    ],
)
def test_views_beyond_their_record(
    good: Entries, tmp_path: Path, view: tuple[int, tuple[int, ...], tuple[int, ...]]
) -> None:
    assert "does not fit its record" in refused(_with_tensor(good, *view), tmp_path)


def test_a_view_within_its_record(good: Entries, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(_with_tensor(good, 0, (4, 3, 3, 3), (27, 9, 1, 3)))
    weight = load_torchscript(tmp_path / "net.pt").module.state_dict()["conv.weight"]
    assert weight.stride() == (27, 9, 1, 3)


def test_pickles_of_other_objects(good: Entries, tmp_path: Path) -> None:
    mark = tmp_path / "target"
    for name in ("data.pkl", "constants.pkl"):
        content = {**good, name: pickle.dumps(Marks(mark), protocol=2)}
        assert "does not know" in refused(packed(content), tmp_path, mark)
    for names in ("torch._utils _rebuild_sparse_tensor", "__torch__.torch.classes.rpc Agent"):
        module, _, function = names.partition(" ")
        forged = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b")R."
        assert "does not know" in refused(packed({**good, "data.pkl": forged}), tmp_path)
    quantised = b"\x80\x02c__torch__.torch.classes.quantized\nConv2dPackedParamsBase\n)\x81}b."
    assert "is quantised" in refused(packed({**good, "data.pkl": quantised}), tmp_path)


@pytest.mark.parametrize(
    "forged",
    [
        b"\x80\x02r\xff\xff\xff\x7f.",  # memory for two thousand million places
        b"\x80\x02c__torch__\nA\n}b.",  # state built on a class
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",  # and on a function
        b"\x80\x02(lp0\n.",
        b"\x80\x02ibuiltins\nexec\n.",
        b"\x80\x02K\x00)R.",  # the call of a number, which torch takes for a function's
        b"\x80\x02(X\x07\x00\x00\x00storagetQ.",
        b"\x80\x02",
        b"",
    ],
)
def test_forged_pickles(good: Entries, tmp_path: Path, forged: bytes) -> None:
    for name in ("data.pkl", "constants.pkl"):
        refused(packed({**good, name: forged}), tmp_path)


def test_entries(good: Entries, tmp_path: Path) -> None:
    pairs = [(f"archive/{name}", content) for name, content in good.items()]
    for more, told in (
        (("archive/data.pkl", b"x"), "twice"),
        (("archive/DATA.pkl", b"x"), "twice"),
        (("zz/x", b"x"), "2 folders"),
        (("archive/../x", b"x"), "a name that no"),
        (("archive/code\\x", b"x"), "a name that no"),
        (("archive//x", b"x"), "a name that no"),
        (("archive/\x1b[31m", b"x"), "a name that no"),
    ):
        assert told in refused(zipped(*pairs, more), tmp_path)
    bomb = zipped(*pairs, ("archive/extra/x", bytes(2**27)), kind=zipfile.ZIP_DEFLATED)
    assert "unpacks to" in refused(bomb, tmp_path)
    rest = {name: content for name, content in good.items() if "version" not in name}
    assert "which version" in refused(packed(rest), tmp_path)
    old = {"model.json": b"{}", "tensors/0": b"x"}
    assert "torch 1.3 or older" in refused(packed(old), tmp_path)


def test_what_torch_does_not_need_is_left_out(good: Entries, tmp_path: Path) -> None:
    more = {
        "bytecode.pkl": b"x",
        "traced_inputs.pkl": b"x",
        "extra/other": b"x" * 100,
        "data/unused.txt": b"x",
    }
    (tmp_path / "net.pt").write_bytes(packed({**good, **more}))
    assert load_torchscript(tmp_path / "net.pt").module(X).shape == (2, 4, 6, 6)


def test_a_packed_archive_is_read(good: Entries, tmp_path: Path) -> None:
    pairs = [(f"my model (1)/{name}", content) for name, content in good.items()]
    folders = [("my model (1)/", b""), ("my model (1)/data/", b"")]
    content = zipped(*folders, *pairs, kind=zipfile.ZIP_DEFLATED)
    (tmp_path / "net.pt").write_bytes(content)
    assert load_torchscript(tmp_path / "net.pt").module(X).shape == (2, 4, 6, 6)


def test_a_pickle_under_the_name_of_a_model(tmp_path: Path) -> None:
    mark = tmp_path / "target"
    assert "does not open" in refused(saved({"a": Marks(mark)}), tmp_path, mark)


def test_a_header_that_claims_a_name_of_sixty_thousand_bytes_is_told_briefly() -> None:
    """zipfile quotes the whole name that it found there."""
    content = zipped(("archive/data.txt", b"word " * 14_000))
    content = content[:26] + (60_000).to_bytes(2, "little") + content[28:]  # the name's length
    contents = open_contents(Path("model.pt"), content, "a model")
    with pytest.raises(FileError, match=r"model.pt is damaged: data.txt cannot be read") as raised:
        contents.read("data.txt")
    assert len(str(raised.value)) < 2_000
    assert str(raised.value).isprintable()
