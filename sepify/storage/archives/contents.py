"""The table of contents of a zip archive, judged before anything is unpacked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sepify.errors import FileError, first_line
from sepify.printable import printable

MOST_ENTRIES = 100_000
# of what deflated entries unpack to: torch deflates source code and nothing else
MOST_UNPACKED = 64 * 2**20
MOST_GROWTH = 20  # times the file's size, on top
ROOT = "archive"  # of what is written anew


@dataclass(frozen=True)
class Contents:
    """The entries of an archive by their names without the root folder, each there once."""

    path: Path  # of the file, for messages
    size_on_disk: int  # bytes
    entries: Mapping[str, zipfile.ZipInfo]
    archive: zipfile.ZipFile = field(repr=False)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def size(self, name: str) -> int | None:
        """Bytes of an entry, unpacked; None if there is no such entry."""
        return self.entries[name].file_size if name in self.entries else None

    def read(self, name: str) -> bytes:
        """An entry, unpacked: as many bytes as the table says. Raises FileError."""
        entry = self.entries[name]
        try:
            with self.archive.open(entry) as stream:  # never more than was announced
                content = stream.read(entry.file_size)
        except Exception as error:  # of zlib, of the headers
            told = printable(first_line(error))  # zipfile quotes what it found
            raise FileError(f"{self.path} is damaged: {name} cannot be read ({told})") from error
        if len(content) != entry.file_size:
            raise FileError(f"{self.path} is damaged: {name} is shorter than the archive says")
        return content


def open_contents(path: Path, content: bytes, what: str) -> Contents:
    """The table of contents of the archive `content`, read from `path`.

    Raises FileError for an archive that is cut short, holds a name twice (in any case), several
    root folders or names that are no plain paths, is encrypted, or unpacks to far more than it is.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        everything = archive.infolist()
    except Exception as error:  # BadZipFile, NotImplementedError, struct.error, UnicodeError, ...
        raise FileError(f"{path} is truncated, or no {what}") from error
    infos = [entry for entry in everything if not _is_folder(entry)]
    if all(entry.header_offset for entry in everything):
        # the end is missing, and what was found is the directory of an archive inside
        raise FileError(f"{path} is truncated, or no {what}")
    if len(infos) > MOST_ENTRIES:
        raise FileError(f"{path} holds {len(infos)} entries, more than any {what}")
    _require_sizes(path, content, infos)
    entries: dict[str, zipfile.ZipInfo] = {}
    roots, seen = set(), set()
    for entry in infos:
        root, slash, name = entry.orig_filename.partition("/")
        if not slash:
            root, name = "", root
        if _is_odd(name) or _is_odd(root or "x"):
            raise FileError(f"{path} holds an entry with a name that no {what} has: {name!r:.80}")
        if name.lower() in seen:  # torch's reader does not tell upper from lower case
            raise FileError(f"{path} holds the entry '{name}' twice")
        roots.add(root)
        seen.add(name.lower())
        entries[name] = entry
    if len(roots) > 1:
        raise FileError(f"{path} holds {len(roots)} folders where a {what} has one")
    return Contents(path, len(content), entries, archive)


def _require_sizes(path: Path, content: bytes, infos: list[zipfile.ZipInfo]) -> None:
    unpacked = 0
    for entry in infos:
        if entry.flag_bits & 1 or entry.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise FileError(f"{path} is encrypted, or packed in a way that torch does not write")
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            unpacked += entry.file_size
        elif entry.file_size != entry.compress_size:
            raise FileError(f"{path} is damaged: the sizes of its entries contradict each other")
    if sum(entry.compress_size for entry in infos) > len(content):
        raise FileError(f"{path} is damaged: its entries are larger than the file")
    if unpacked > MOST_UNPACKED + MOST_GROWTH * len(content):
        raise FileError(
            f"{path} unpacks to {unpacked:,} bytes, {unpacked // len(content)} times its size, "
            "which no model does; it is not opened"
        )


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    return entry.orig_filename.endswith("/") and entry.file_size == 0


def _is_odd(name: str) -> bool:
    parts = name.split("/")
    return (
        any(part in ("", ".", "..") for part in parts)
        or not name.isprintable()
        or any(sign in name for sign in ("\\", ":"))
    )


def written(entries: Mapping[str, bytes]) -> io.BytesIO:
    """A new archive of these entries alone, in memory, unpacked, in one root folder."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), content)
    stream.seek(0)
    return stream
