"""Whatever happened to a file, reading it succeeds or is one sentence; `make fuzz` goes on."""

import ctypes
import time

import fuzz
import pytest
from fuzz_formats import FORMATS, Format, available

from sepify.errors import FileError

SEED, CASES = 23, 200


@pytest.mark.parametrize("name", [form.name for form in FORMATS])
def test_mutated_files_are_read_or_refused_in_one_sentence(name, tmp_path):
    forms = {form.name: form for form in available()}
    if name not in forms:
        pytest.skip("its package is not installed")
    valid = fuzz.make_valid(forms[name], tmp_path)
    found = fuzz.run_cases(valid, SEED, 0, CASES)
    assert found.failures == {}
    assert found.ended.total() == CASES
    assert found.ended["accepted"] < CASES or name in ("records", "metaschedule")  # lines skipped


class Raw(FileError):
    def __str__(self):
        return str(self.args[0])


def reads(path):
    """A reader with a fault for each number that a file may hold."""
    number = int(path.read_text())
    if number == 1:
        raise KeyError("no error of ours")
    if number == 2:
        raise Raw("two\nlines")
    if number == 3:
        raise Raw("a colour \x1b[31m")
    if number == 4:
        ctypes.string_at(0)
    if number == 5:
        time.sleep(60)
    if number == 6:
        raise FileError("as it should be")


def test_the_fuzzer_tells_every_kind_of_failure_and_the_case(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    numbers = iter(range(8))
    count = Format(
        "count", "", lambda path: path.write_text("0"), reads, lambda _, random: drawn(random)
    )

    def drawn(_random):
        return str(next(numbers)).encode()

    valid = fuzz.make_valid(count, tmp_path)
    found = fuzz.run_cases(valid, 0, 0, 4)
    assert sorted(found.failures) == [1, 2, 3]
    assert "KeyError" in found.failures[1]
    assert "unreadable message" in found.failures[2]
    assert "unreadable message" in found.failures[3]
    for number, why in ((4, "ended the process"), (5, "took too long")):
        numbers = iter([number])
        assert why in fuzz.run_cases(valid, 0, 0, 1).failures[0]
    numbers = iter([6, 7])
    found = fuzz.run_cases(valid, 0, 0, 2)
    assert (found.ended["refused"], found.ended["accepted"], found.failures) == (1, 1, {})


def test_a_case_is_the_same_again(tmp_path):
    valid = fuzz.make_valid(available()[0], tmp_path)
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(valid.mutated(5, 17, tmp_path / name).read_bytes())
    assert made[0] == made[1] != valid.path.read_bytes()
