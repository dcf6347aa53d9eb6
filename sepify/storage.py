"""Every file that sepify reads or writes: formats, versions, and writes that are whole or absent.

TorchScript archives are read by torch's C++ loader, exported programs after a look at what torch's
loader would unpickle or evaluate, arrays with pickles refused, plans and reports as JSON: none of
them can run code of their own while being read. (A TorchScript *model*, once called, runs
TorchScript operators, never Python.)
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sepify.errors import FileError
from sepify.input_note import InputNote, Shape, read_note

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.export import ExportedProgram

METADATA_NAME = "sepify.json"


@dataclass(frozen=True)
class ModelFile:
    """A TorchScript model and what sepify noted in it (nothing, in a file from elsewhere)."""

    module: torch.jit.ScriptModule
    path: Path
    note: InputNote | None  # the shapes and types of its inputs
    size: int  # bytes on disk

    @property
    def input_shapes(self) -> tuple[Shape, ...] | None:
        """The shape of one example of each input, batch first, where the file says so."""
        return None if self.note is None else self.note.shapes


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, a file or a folder; moved over `path` if the block succeeds,
    removed if it fails. An old file is replaced in one step; an old folder is swapped out.

    Raises FileError if the place cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise FileError(f"cannot write {path}: {_cause(error)}; choose another place") from error
    temporary = scratch / path.name
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            path.rename(scratch / "old")
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {_cause(error)}; nothing was changed") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_writable(folder: Path | str) -> None:
    """Raise FileError now if `folder` could not be written to at the end of long work. The probe
    has a name of its own: several processes may ask about one folder at once."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".sepify-write-test-", dir=folder):
            pass
    except OSError as error:
        raise FileError(
            f"cannot write to {folder}: {_cause(error)}; choose another place"
        ) from error


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text, whole or not at all; "-" is stdout."""
    if str(path) == "-":
        sys.stdout.write(text)
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON, whole or not at all; NaN is refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_line(path: Path | str, line: str) -> None:
    """Add one line in one write: whoever else appends, lines stay whole. A half line that a killed
    writer left is ended first. Raises FileError."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            torn = False
            if size:
                file.seek(size - 1)
                torn = file.read(1) != b"\n"
            file.write((("\n" if torn else "") + line + "\n").encode())
    except OSError as error:
        raise FileError(f"cannot write {path}: {_cause(error)}; choose another place") from error


def read_lines(path: Path | str) -> list[str]:
    """The lines of a file that is only appended to; none if it does not exist. Bytes that are not
    UTF-8 are replaced: they belong to a line that was cut short. Raises FileError."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FileError(f"cannot read {path}: {_cause(error)}") from error


def pack(folder: Path, path: Path, name: str) -> None:
    """Write the files of `folder` to `path` as .tar.xz, in a folder `name`, the same bytes every
    time."""
    import tarfile

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(path, "w:xz", preset=9) as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"{name}/{file.name}", filter=plain)


def read_text(path: Path | str) -> str:
    """Read UTF-8 text; "-" is stdin. Raises FileError naming the file."""
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return _read_bytes(Path(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not a JSON file: it is not UTF-8 text") from error


def read_json(path: Path | str) -> Any:
    """Read JSON. Raises FileError naming the file, the line and the column of a fault."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path | str) -> Any:
    """The JSON that `text`, read from `path`, holds. Raises FileError as `read_json` does."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise FileError(f"{path} is not valid JSON: {error.msg} at {where}") from error


def read_arrays(
    path: Path | str, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file, and those of the optional ones that it has; pickled objects
    are refused. Raises FileError."""
    path = Path(path)
    _require_file(path)
    try:
        with zipfile.ZipFile(path):  # np.load would take other formats as well
            pass
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise FileError(f"{path} has no array {missing[0]!r}; it has {archive.files}")
            there = [*names, *(name for name in optional if name in archive)]
            return {name: archive[name] for name in there}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} is not a readable .npz file: {_first_line(error)}") from error


def read_picture(path: Path | str) -> Image:
    """A picture, decoded. Raises FileError naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise FileError(f"{path} is not a readable picture: {_first_line(error)}") from error
    return picture


def file_digest(path: Path | str) -> tuple[int, str]:
    """Bytes and SHA-256 of a file; of a folder, those of all files in it, names and contents, in
    the order of their names. Raises FileError."""
    path = Path(path)
    digest, size = hashlib.sha256(), 0
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        for file in files:
            if path.is_dir():
                digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(2**20):
                    size += len(block)
                    digest.update(block)
    except OSError as error:
        raise FileError(f"cannot read {file}: {_cause(error)}") from error
    return size, digest.hexdigest()


def read_array(path: Path | str) -> np.ndarray:
    """The array of an .npy file; pickled objects are refused. Raises FileError."""
    path = Path(path)
    _require_file(path)
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{path} is not a readable .npy file: {_first_line(error)}") from error


def save_torchscript(
    module: torch.jit.ScriptModule,
    path: Path | str,
    input_shapes: Sequence[Shape] | None = None,
    input_dtypes: Sequence[str] | None = None,
) -> None:
    """Save a TorchScript file with what its inputs are noted inside (TorchScript itself does not
    say): shapes, and types by name, float32 where none are given."""
    extra: dict[str, str] = {}
    if input_shapes is not None:
        dtypes = tuple(input_dtypes or ["float32"] * len(input_shapes))
        note = InputNote(tuple(tuple(shape) for shape in input_shapes), dtypes)
        extra[METADATA_NAME] = note.to_json()
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            torch.jit.save(module, str(temporary), _extra_files=extra)
        except RuntimeError as error:  # torch's own writer reports a full disk as RuntimeError
            raise FileError(f"cannot write {path}: {_first_line(error)}") from error


def save_exported(program: ExportedProgram, path: Path | str, note: InputNote) -> None:
    """Save a `.pt2` file with what its inputs are noted inside."""
    extra = {METADATA_NAME: note.to_json()}
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with temporary.open("wb") as file:
                torch.export.save(program, file, extra_files=extra)
        except RuntimeError as error:  # torch's own writer reports a full disk as RuntimeError
            raise FileError(f"cannot write {path}: {_first_line(error)}") from error


def save_weights(tensors: Mapping[str, torch.Tensor], path: Path | str, note: InputNote) -> None:
    """Save named tensors as safetensors, with the model's inputs noted in the header."""
    from safetensors.torch import save

    metadata = {"format": "pt", METADATA_NAME: note.to_json()}
    write_bytes(path, save(dict(tensors), metadata))


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The named tensors of a .safetensors file. Raises FileError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _read_bytes(Path(path))
    try:
        return dict(load(content))
    except SafetensorError as error:
        raise FileError(
            f"{path} is not a readable .safetensors file: {_first_line(error)}"
        ) from error


def save_state(state: Mapping[str, Any], path: Path | str) -> None:
    """Save tensors, numbers, strings, and lists and dicts of them with torch.save, whole or not at
    all. Raises FileError."""
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(dict(state), file)
        except RuntimeError as error:  # torch's own writer reports a full disk as RuntimeError
            raise FileError(
                f"cannot write {path}: {_first_line(error)}; nothing was changed"
            ) from error


def read_state(path: Path | str) -> dict[str, Any]:
    """What `save_state` saved, onto the CPU; nothing in the file can run. Raises FileError."""
    path = Path(path)
    _require_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the restricted unpickler refuses or cannot read
        raise FileError(f"{path} is damaged, or no checkpoint: {_first_line(error)}") from error
    if not isinstance(state, dict):
        raise FileError(f"{path} holds a {type(state).__name__}, no checkpoint")
    return state


def load_torchscript(path: Path | str) -> ModelFile:
    """Load a TorchScript file onto the CPU.

    Raises FileError, in words for each: no such file, a folder, truncated, a state_dict or another
    torch.save file, an ExportedProgram, not a torch file at all.
    """
    path = Path(path)
    _require_file(path)
    _require_torchscript(path)
    extra = {METADATA_NAME: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    except (RuntimeError, ValueError) as error:
        raise FileError(f"{path} is damaged or truncated: {_first_line(error)}") from error
    return ModelFile(module, path, read_note(extra[METADATA_NAME]), path.stat().st_size)


def load_exported(path: Path | str) -> ExportedProgram:
    """Load a `.pt2` file of `torch.export.save` onto the CPU.

    torch's own loader unpickles and evaluates parts of such a file. What it would do that to is
    looked at first (`sepify.pt2_archive`), and a file that could run code is refused.

    Raises FileError, in words for each: no such file, truncated, TorchScript or a pickle instead,
    written by a torch whose schema this one does not read, pickled or native parts.
    """
    from sepify.pt2_archive import require_exported  # torch.export takes a while to import

    path = Path(path)
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            require_exported(path, archive)
    except zipfile.BadZipFile as error:
        raise FileError(f"{path} is truncated, or no .pt2 file (torch.export.save)") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {_cause(error)}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # from memory: torch warns of a path that does not end in .pt2
            return torch.export.load(io.BytesIO(path.read_bytes()))
    except Exception as error:  # whatever the deserialiser meets: keys, attributes, operators
        raise FileError(
            f"torch {torch.__version__} cannot load {path}: {_first_line(error)}; "
            "export the model again with this torch"
        ) from error


def noted_inputs(path: Path | str) -> InputNote | None:
    """What sepify noted of the inputs in a `.pt2` file; None in a file from elsewhere."""
    path = Path(path)
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"/extra/{METADATA_NAME}"):
                    return read_note(archive.read(name))
    except zipfile.BadZipFile as error:
        raise FileError(f"{path} is truncated, or no .pt2 file (torch.export.save)") from error
    return None


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise FileError(f"{path} is a folder, not a file")
    if not path.exists():
        raise FileError(f"no such file: {path}")


def _read_bytes(path: Path) -> bytes:
    _require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {_cause(error)}") from error


def _require_torchscript(path: Path) -> None:
    """Tell apart, by the archive's table of contents alone, the files people mistake for it."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise FileError(f"cannot read {path}: {_cause(error)}") from error
    if magic != b"PK\x03\x04":
        if not magic:
            raise FileError(f"{path} is empty")
        hint = "save one with torch.jit.save(torch.jit.trace(model, example), path)"
        raise FileError(f"{path} is not a TorchScript file; {hint}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [name.partition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise FileError(f"{path} is truncated: the end of the archive is missing") from error
    if "constants.pkl" in entries:
        return
    if "data.pkl" in entries:
        raise FileError(f"{path} {_describe_pickle(path)}")
    raise FileError(f"{path} is a zip archive but not a TorchScript file")


def _describe_pickle(path: Path) -> str:
    """What a torch.save file holds, read with weights_only so that nothing in it can run."""
    advice = "TorchScript is needed: torch.jit.save(torch.jit.trace(model, example), path)"
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the restricted unpickler refuses or cannot read
        return f"is a pickled Python object, which sepify does not open; {advice}"
    if isinstance(value, dict):
        return f"holds a state_dict or checkpoint ({len(value)} entries), not a model; {advice}"
    return f"holds a {type(value).__name__}, not a model; {advice}"


def on_disk(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose memory is a temporary file that has no name any more: the system writes it out
    when memory is short, and nothing is left behind. TMPDIR says where. Raises FileError if there
    is no room."""
    size = tensor.numel() * tensor.element_size()
    if size == 0:
        return tensor
    try:
        with tempfile.NamedTemporaryFile(prefix="sepify-") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not a signal
            copy = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
    except OSError as error:
        where = tempfile.gettempdir()
        raise FileError(f"no room in {where}: {_cause(error)}; set TMPDIR to a disk") from error
    return copy.reshape(tensor.shape).copy_(tensor)


def is_on_disk(tensor: torch.Tensor) -> bool:
    """Whether `on_disk` made it."""
    return tensor.device.type == "cpu" and tensor.untyped_storage().filename is not None


def _cause(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
