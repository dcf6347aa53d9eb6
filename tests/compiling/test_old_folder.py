"""What stands in the place of a folder is not replaced without asking."""

from __future__ import annotations

import json

import pytest

from sepify.compiling.old_folder import FACTS, METADATA, require_replaceable
from sepify.errors import UsageError


def written(folder, name, target):
    folder.mkdir()
    value = {"format": 1, "tvm_target": {}, "target": target}
    (folder / name).write_text(json.dumps(value))
    return folder


def test_nothing_an_empty_folder_and_its_own_kind_are_replaced(tmp_path):
    require_replaceable(tmp_path / "none", "native", METADATA)
    (tmp_path / "empty").mkdir()
    require_replaceable(tmp_path / "empty", "native", METADATA)
    require_replaceable(written(tmp_path / "a", METADATA, "native"), "native", METADATA)
    require_replaceable(written(tmp_path / "b", FACTS, "armv7"), "armv7", FACTS)


@pytest.mark.parametrize(
    ("there", "old", "name", "new"),
    [
        (FACTS, "raspberry-pi-4", FACTS, "native"),
        (METADATA, "x86-64-v3", METADATA, "native"),
        (FACTS, "native", METADATA, "native"),
        (METADATA, "native", FACTS, "native"),
    ],
)
def test_another_target_or_kind_has_to_be_asked_for(tmp_path, there, old, name, new):
    folder = written(tmp_path / "a", there, old)
    with pytest.raises(UsageError, match=f"for {old}; give --replace"):
        require_replaceable(folder, new, name)
    require_replaceable(folder, new, name, replace=True)


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"format": 1, "target": "native"}', "not JSON", None]
)
def test_a_folder_of_somebody_elses_is_never_replaced(tmp_path, content):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    if content is not None:
        (folder / METADATA).write_text(content)
    for replace in (False, True):
        with pytest.raises(UsageError, match="did not write"):
            require_replaceable(folder, "native", METADATA, replace)
