"""A folder that stands where one is to be written: nothing of value is replaced unasked."""

from __future__ import annotations

from pathlib import Path

from sepify.errors import SepifyError, UsageError
from sepify.storage import read_json

METADATA = "metadata.json"  # in a compiled network's folder
FACTS = "model.json"  # in a bundle

_KINDS = {METADATA: "compiled network", FACTS: "bundle"}


def require_replaceable(folder: Path, target: str, name: str, replace: bool = False) -> None:
    """Raise UsageError if writing to `folder` would replace anything but what was written there
    before for the same `target` in the same way, as the file `name` in it shows; with `replace`,
    anything but a compiled network or a bundle."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    found = next((file for file in _KINDS if (folder / file).is_file()), None)
    old = None if found is None else _target(folder / found)
    if found is None or old is None:
        raise UsageError(
            f"{folder} is a folder that sepify did not write, and would be replaced as a whole: "
            "name another place"
        )
    if not replace and (found, old) != (name, target):
        raise UsageError(
            f"{folder} holds a {_KINDS[found]} for {old}; give --replace (replace=True) to put a "
            f"{_KINDS[name]} for {target} in its place, or name another"
        )


def _target(file: Path) -> str | None:
    """The target that a file of ours names; None in anybody else's."""
    try:
        value = read_json(file)
    except SepifyError:
        return None
    ours = isinstance(value, dict) and "format" in value and "tvm_target" in value
    return str(value.get("target")) if ours else None
