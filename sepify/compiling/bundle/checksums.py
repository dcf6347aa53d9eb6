"""SHA256SUMS: the checksum of every file of a bundle, in the format of sha256sum."""

from __future__ import annotations

from pathlib import Path

from sepify.errors import FileError
from sepify.storage import file_digest, read_text, write_text

NAME = "SHA256SUMS"
LONGEST = 255  # bytes of a file's name


def write_checksums(folder: Path) -> None:
    """Write the checksums of everything else in `folder`."""
    files = sorted(path for path in folder.iterdir() if path.name != NAME)
    lines = [f"{file_digest(path)[1]}  {path.name}\n" for path in files]
    write_text(folder / NAME, "".join(lines))


def check_checksums(folder: Path | str) -> None:
    """Raise FileError naming the first file that is missing, or not the one that was written."""
    folder = Path(folder)
    for number, line in enumerate(read_text(folder / NAME).splitlines(), 1):
        wanted, gap, name = line.partition("  ")
        plain = Path(name).name == name and "\0" not in name
        if len(wanted) != 64 or not gap or not plain or not 0 < len(name.encode()) <= LONGEST:
            raise FileError(f"{folder / NAME}: line {number} is damaged; make the bundle again")
        path = folder / name
        if not path.is_file():
            raise FileError(f"{folder} is incomplete: {name} is missing; copy it again")
        if file_digest(path)[1] != wanted:
            raise FileError(f"{path} is damaged: its checksum differs; copy the bundle again")
