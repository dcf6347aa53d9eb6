"""Every file that sepify reads or writes: formats, versions, and writes that are whole or absent.

TorchScript archives are read by torch's C++ loader, exported programs after a look at what torch's
loader would unpickle or evaluate, arrays with pickles refused, plans and reports as JSON: none of
them can run code of their own while being read. (A TorchScript *model*, once called, runs
TorchScript operators, never Python.)

What needs numpy or torch is imported from its own module: `arrays`, `pictures`, `tensors`.
"""

from sepify.storage.atomic import atomic_path
from sepify.storage.decode import decode, read_document
from sepify.storage.digests import file_digest
from sepify.storage.documents import (
    damaged_lines,
    parse_json,
    parse_lines,
    read_json,
    read_lines,
    read_text,
)
from sepify.storage.reading import read_bytes, require_file
from sepify.storage.temporary import ROOM_ELSEWHERE, temporary_folder, want_of_room
from sepify.storage.together import written_together
from sepify.storage.writing import (
    append_line,
    pack,
    require_writable,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "ROOM_ELSEWHERE",
    "append_line",
    "atomic_path",
    "damaged_lines",
    "decode",
    "file_digest",
    "pack",
    "parse_json",
    "parse_lines",
    "read_bytes",
    "read_document",
    "read_json",
    "read_lines",
    "read_text",
    "require_file",
    "require_writable",
    "temporary_folder",
    "want_of_room",
    "write_bytes",
    "write_json",
    "write_text",
    "written_together",
]
