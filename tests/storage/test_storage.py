import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nets import Plain, images, seeded

from sepify.errors import FileError
from sepify.formats.torchscript_read import load_torchscript
from sepify.formats.torchscript_write import save_torchscript
from sepify.storage import atomic_path, read_json, require_writable, write_json
from sepify.storage.arrays import read_array, read_arrays

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "model.pt"
    save_torchscript(torch.jit.trace(seeded(Plain()), images()), path, [(1, 3, 12, 12)])
    return path


def test_torchscript_round_trip_with_its_shapes(script):
    file = load_torchscript(script)
    assert file.input_shapes == ((1, 3, 12, 12),)
    assert file.size == script.stat().st_size
    assert torch.equal(file.module(images()), seeded(Plain())(images()))


def test_a_file_from_elsewhere_has_no_shapes(tmp_path):
    torch.jit.save(torch.jit.trace(seeded(Plain()), images()), str(tmp_path / "model.pt"))
    assert load_torchscript(tmp_path / "model.pt").input_shapes is None


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def test_files_that_are_something_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = seeded(Plain())
    torch.save(model.state_dict(), "state.pt")
    torch.save(model, "pickled.pt")
    torch.save(torch.zeros(3), "tensor.pt")
    torch.save(Evil(), "evil.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    np.savez("arrays.pt.npz", x=np.zeros(3))
    for name, message in [
        ("nowhere.pt", "no such file: nowhere.pt"),
        (".", "is a folder"),
        (
            "state.pt",
            r"state_dict or checkpoint \(15 entries\), not a model; TorchScript is needed",
        ),
        ("pickled.pt", "is a pickled Python object, which sepify does not open"),
        ("tensor.pt", "holds a Tensor, not a model"),
        ("evil.pt", "is a pickled Python object, which sepify does not open"),
        ("text.pt", "is not a TorchScript file; save one with"),
        ("empty.pt", "is empty"),
        ("arrays.pt.npz", "a zip archive but not a TorchScript file"),
    ]:
        with pytest.raises(FileError, match=message):
            load_torchscript(name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_called_so(script, share):
    whole = script.read_bytes()
    script.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FileError, match="truncated"):
        load_torchscript(script)


def test_a_damaged_file_never_gives_a_torch_traceback(script):
    whole = bytearray(script.read_bytes())
    middle = whole.find(b"code/")
    whole[middle : middle + 400] = bytes(400)
    script.write_bytes(bytes(whole))
    with pytest.raises(FileError, match="damaged|not a TorchScript"):
        load_torchscript(script)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "plan.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_folder_is_swapped_whole(tmp_path):
    folder = tmp_path / "bundle"
    for content in ("one", "two"):
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert os.listdir(folder) == ["two"]
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write .*choose another place"):
        require_writable(tmp_path / "file" / "folder")
    require_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []


def test_many_may_ask_about_one_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as several:
        for asked in [several.submit(require_writable, tmp_path) for _ in range(400)]:
            asked.result()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_sentence(script):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full to play a full disk")
    with (
        pytest.raises(FileError, match="cannot write .*no space left"),
        atomic_path(script) as temp,
    ):
        temp.symlink_to("/dev/full")
        temp.write_text("x" * 100)
    assert load_torchscript(script).input_shapes == ((1, 3, 12, 12),)


def test_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.arange(3))
    np.save(tmp_path / "a.npy", np.arange(3))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    assert read_arrays(tmp_path / "a.npz", ["images"])["images"].tolist() == [0, 1, 2]
    assert read_array(tmp_path / "a.npy").tolist() == [0, 1, 2]
    for path, message in [
        (tmp_path / "a.npz", "has no array 'labels'; it has"),
        (tmp_path / "a.npy", "not an .npz"),
        (tmp_path / "b.npz", "no such file"),
    ]:
        with pytest.raises(FileError, match=message):
            read_arrays(path, ["labels"])
    for name in ("objects.npy", "a.npz"):
        with pytest.raises(FileError, match=r"not an \.npy"):
            read_array(tmp_path / name)
    (tmp_path / "half.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:50])
    with pytest.raises(FileError, match=r"not an \.npz"):
        read_arrays(tmp_path / "half.npz", ["images"])


def test_json_faults_name_the_place(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="not UTF-8"):
        read_json(tmp_path / "a.json")
