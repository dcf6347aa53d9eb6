"""The file of measurements: whatever happens to it, whole records are read and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sepify.compiling.kernel_tuning.records import FILE_NAME, Record, Records
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.pooled import POOLED
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.table import read_workload
from sepify.errors import FileError

_TARGET = {"kind": "llvm", "mcpu": "a"}
_VERSIONS = {"tvm": "1"}
_WORKLOAD = Workload(
    SEPARABLE,
    Conv(1, 16, 9, 7, 16, Window((3, 3), (2, 2), (1, 1, 1, 1)), 5, 4, 16),
    Epilogue(True, (0.0, float("inf"))),
    rank=2,
    outputs=24,
    middle=Epilogue(clip=(0.0, 6.0)),
)


def knobs(pixels: int) -> Knobs:
    return Knobs(pixels, 2, 3, 1)


def open_records(folder, target=_TARGET, versions=_VERSIONS):
    return Records(folder, target, versions)


def test_the_fastest_comes_back(tmp_path):
    records = open_records(tmp_path)
    records.add(_WORKLOAD, Record(knobs(1), 2e-3, 1.0))
    records.add(_WORKLOAD, Record(knobs(2), 1e-3, 0.5))
    records.add(_WORKLOAD, Record(knobs(3), None, None, "crashed: SIGILL"))
    again = open_records(tmp_path)
    assert again.best(_WORKLOAD) == records.best(_WORKLOAD) == knobs(2)
    assert again.measured(_WORKLOAD)[knobs(3)].error == "crashed: SIGILL"
    assert again.best(Workload(DENSE, _WORKLOAD.conv)) is None


def test_the_default_stays_unless_it_is_beaten_decidedly(tmp_path):
    records = open_records(tmp_path)
    for pixels, relative in ((1, 1.002), (2, 0.98), (3, 0.99)):
        records.add(_WORKLOAD, Record(knobs(pixels), 1e-3 * relative, relative))
    assert records.best(_WORKLOAD) == open_records(tmp_path).best(_WORKLOAD) == knobs(1)
    records.add(_WORKLOAD, Record(knobs(4), 0.96e-3, 0.96))
    assert records.best(_WORKLOAD) == open_records(tmp_path).best(_WORKLOAD) == knobs(4)


def test_a_workload_survives_json():
    pool = Conv(1, 16, 5, 4, 16, Window((2, 2), (2, 2)), 2, 2, 16)
    pooled = Workload(POOLED, replace(_WORKLOAD.conv, groups=1), blocked=False, then=pool)
    for workload in (_WORKLOAD, pooled):
        assert read_workload(json.loads(workload.key)) == workload


def test_a_kill_at_any_byte_costs_one_record_at_most(tmp_path):
    records = open_records(tmp_path)
    for pixels in (1, 2, 3):
        records.add(_WORKLOAD, Record(knobs(pixels), 1e-3 / pixels, 1 / pixels))
    whole = (tmp_path / FILE_NAME).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in {*range(0, len(whole), 37), *ends, *(end - 1 for end in ends)}:
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(whole[:cut])
        torn = open_records(folder)
        kept = sum(end <= cut + 1 for end in ends)  # without its newline, a record is whole too
        assert len(torn.measured(_WORKLOAD)) == kept
        torn.add(_WORKLOAD, Record(knobs(9), 1e-6, 0.001))
        after = open_records(folder)
        assert after.best(_WORKLOAD) == knobs(9)
        assert len(after.measured(_WORKLOAD)) == kept + 1


def test_slower_knobs_are_not_taken_because_they_come_first(tmp_path):
    """In merged files, and from several boards, the default may come last."""
    records = open_records(tmp_path)
    for pixels, relative in ((9, 1.3), (2, 0.98), (1, 1.001)):
        records.add(_WORKLOAD, Record(knobs(pixels), 1e-3 * relative, relative))
    assert records.best(_WORKLOAD) == open_records(tmp_path).best(_WORKLOAD) == knobs(1)


def test_files_are_merged_by_joining_them(tmp_path):
    for name, pixels in (("a", 1), ("b", 2)):
        open_records(tmp_path / name).add(_WORKLOAD, Record(knobs(pixels), 1.0, 1 / pixels))
    joined = b"".join((tmp_path / name / FILE_NAME).read_bytes() for name in "ab")
    (tmp_path / FILE_NAME).write_bytes(joined)
    assert len(open_records(tmp_path).measured(_WORKLOAD)) == 2


def test_other_versions_are_counted_and_other_targets_left_alone(tmp_path):
    open_records(tmp_path).add(_WORKLOAD, Record(knobs(1), 1.0, 1.0))
    newer = open_records(tmp_path, versions={"tvm": "2"})
    assert newer.best(_WORKLOAD) is None
    assert newer.of_other_versions == 1
    elsewhere = open_records(tmp_path, target={"kind": "llvm", "mcpu": "b"})
    assert elsewhere.best(_WORKLOAD) is None
    assert elsewhere.of_other_versions == 0


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    records = open_records(tmp_path)
    records.path = tmp_path / "file" / FILE_NAME
    with pytest.raises(FileError, match="cannot write"):
        records.add(_WORKLOAD, Record(knobs(1), 1.0, 1.0))
