"""`.pt2` files: what is no exported program, or could run code, is refused in one sentence."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from capture.forms import script
from torch import Tensor, nn
from torch.export import Dim

from sepify.errors import FileError
from sepify.formats.pt2_read import load_exported

X = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) * self.scale
        return y[:, :, : y.shape[2] // 2]


@pytest.fixture(scope="module")
def archive() -> bytes:
    """The file of torch.export.save."""
    dims = ({0: Dim.AUTO, 2: Dim.AUTO},)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Net().eval(), (X,), dynamic_shapes=dims), buffer)
    return buffer.getvalue()


def refusal(content: bytes, tmp_path: Path) -> str:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        load_exported(path)
    message = str(caught.value)
    assert "net.pt2" in message
    assert "\n" not in message
    return message


def changed(archive: bytes, name: str, change: Callable[[Any], Any] | None) -> bytes:
    """The archive with one JSON record changed, or (None) left out."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(written, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith(name):
                if change is None:
                    continue
                value = json.loads(content)
                content = json.dumps(change(value) or value).encode()
            new.writestr(entry, content)
    return written.getvalue()


def test_it_loads(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(archive)
    program = load_exported(str(tmp_path / "net.bin"))
    assert set(program.state_dict) == {"conv.weight", "conv.bias", "scale"}
    assert all(tensor.device.type == "cpu" for tensor in program.state_dict.values())


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        load_exported(tmp_path / "none.pt2")
    with pytest.raises(FileError, match="is a folder"):
        load_exported(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated(archive: bytes, tmp_path: Path, share: float) -> None:
    told = refusal(archive[: int(len(archive) * share)], tmp_path)
    assert "truncated, or no .pt2 file" in told


def test_damaged(archive: bytes, tmp_path: Path) -> None:
    place = archive.index(b'"graph_module"')
    told = refusal(archive[:place] + b"#" + archive[place + 1 :], tmp_path)
    assert "is damaged: models/model.json" in told


def test_from_a_newer_torch(archive: bytes, tmp_path: Path) -> None:
    def newer(program: dict[str, Any]) -> None:
        program["schema_version"]["major"] = 99
        program["torch_version"] = "3.1.0"

    told = refusal(changed(archive, "models/model.json", newer), tmp_path)
    assert "was written by torch 3.1.0 in schema 99" in told
    assert "reads schema" in told
    told = refusal(
        changed(archive, "models/model.json", lambda p: p.pop("schema_version") and None), tmp_path
    )
    assert "has no schema version" in told
    told = refusal(changed(archive, "model_weights_config.json", None), tmp_path)
    assert "in the layout of another torch" in told


def test_an_operator_that_this_torch_lacks(archive: bytes, tmp_path: Path) -> None:
    def unknown(program: dict[str, Any]) -> None:
        nodes = program["graph_module"]["graph"]["nodes"]
        conv = next(node for node in nodes if "conv2d" in node["target"])
        conv["target"] = "torch.ops.aten.conv2d_of_the_future.default"

    told = refusal(changed(archive, "models/model.json", unknown), tmp_path)
    assert "cannot load" in told


def test_other_files(tmp_path: Path) -> None:
    for content, expected in (
        (_torchscript(), "is TorchScript"),
        (_saved({"conv.weight": torch.ones(3)}), "torch.save"),
        (_zip({"serialized_exported_program.json": b"{}", "version": b"7.3"}), "torch 2.7"),
        (_zip({"a/readme.txt": b"hello"}), "is a zip archive but not an exported program"),
        (pickle.dumps([1, 2]), "no .pt2 file"),
    ):
        assert expected in refusal(content, tmp_path)


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').system('true')", "open('x')", "(1).__class__", "[n for n in 'a b']", "1 +"],
)
def test_expressions_that_could_run(archive: bytes, tmp_path: Path, expression: str) -> None:
    def wicked(program: dict[str, Any]) -> None:
        text = json.dumps(program)
        first = text.index('"expr_str": "') + len('"expr_str": "')
        end = text.index('"', first)
        program.update(json.loads(text[:first] + expression + text[end:]))

    told = refusal(changed(archive, "models/model.json", wicked), tmp_path)
    assert "could run code" in told


@pytest.mark.parametrize("target", ["torch.os.system", "_operator.methodcaller", "os.system"])
def test_operators_that_could_run(archive: bytes, tmp_path: Path, target: str) -> None:
    def wicked(program: dict[str, Any]) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    assert "could run code" in refusal(changed(archive, "models/model.json", wicked), tmp_path)


def test_pickles_and_native_code(archive: bytes, tmp_path: Path) -> None:
    def pickled(config: dict[str, Any]) -> None:
        config["config"]["scale"]["use_pickle"] = True

    told = refusal(changed(archive, "model_weights_config.json", pickled), tmp_path)
    assert "holds 'scale' as a pickled Python object" in told

    def with_entry(name: str, content: bytes) -> bytes:
        entries = zipfile.ZipFile(io.BytesIO(archive))
        kept = {n: entries.read(n) for n in entries.namelist() if not n.endswith(name)}
        root = next(iter(kept)).partition("/")[0]
        return _zip({**kept, f"{root}/{name}": content})

    told = refusal(with_entry("data/aotinductor/model/x.so", b""), tmp_path)
    assert "compiled native code" in told
    told = refusal(with_entry("data/sample_inputs/model.pt", _saved(Path("x"))), tmp_path)
    assert "sample inputs that are pickled" in told


def _torchscript() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(script(Net().eval(), "scripted", (X,)), buffer)
    return buffer.getvalue()


def _saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _zip(entries: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return written.getvalue()
