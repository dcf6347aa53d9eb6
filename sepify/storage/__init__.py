"""Every file that sepify reads or writes: formats, versions, and writes that are whole or absent.

TorchScript archives are read by torch's C++ loader, exported programs after a look at what torch's
loader would unpickle or evaluate, arrays with pickles refused, plans and reports as JSON: none of
them can run code of their own while being read. (A TorchScript *model*, once called, runs
TorchScript operators, never Python.)
"""

from sepify.storage.arrays import read_array, read_arrays
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
from sepify.storage.pictures import MOST_PIXELS, read_picture
from sepify.storage.tensors import (
    is_on_disk,
    on_disk,
    read_state,
    read_weights,
    save_state,
    save_weights,
)
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
    "MOST_PIXELS",
    "append_line",
    "atomic_path",
    "damaged_lines",
    "decode",
    "file_digest",
    "is_on_disk",
    "on_disk",
    "pack",
    "parse_json",
    "parse_lines",
    "read_array",
    "read_arrays",
    "read_document",
    "read_json",
    "read_lines",
    "read_picture",
    "read_state",
    "read_text",
    "read_weights",
    "require_writable",
    "save_state",
    "save_weights",
    "write_bytes",
    "write_json",
    "write_text",
    "written_together",
]
