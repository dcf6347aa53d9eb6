"""Mutate valid files of every format that sepify reads, and read them: `make fuzz`.

    python tests/fuzz.py                                  until Ctrl-C, with a new seed
    python tests/fuzz.py --seconds 300 --format plan --seed 7
    python tests/fuzz.py --format plan --seed 7 --case 12     one case again, with its traceback

Permitted are success, and one SepifyError of one line without control characters, within bounded
time and memory. Each chunk of cases runs in a fork, so that a crash is a failure with its number.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz_formats import Format, available

from sepify.errors import SepifyError

SECONDS = 20  # of one case, on a busy machine
MEMORY = 3 * 2**30  # beyond what the process has
CHUNK = 100  # cases a fork


@dataclass
class Tally:
    """Of one format: how many cases ended in what; what was wrong, by case."""

    ended: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Valid:
    """A valid file or folder, made once."""

    format: Format
    path: Path

    def mutated(self, seed: int, case: int, place: Path) -> Path:
        """A copy at `place`, one of its files changed as seed and case say."""
        random = Random(f"{seed} {self.format.name} {case}")
        target = _copy(self.path, place)
        files = sorted(f for pattern in self.format.files for f in target.glob(pattern))
        file = random.choice(files) if files else target
        file.write_bytes(self.format.mutate(file.read_bytes(), random))
        return target


def make_valid(form: Format, folder: Path) -> Valid:
    """Write the valid file, and read it: it must be accepted."""
    path = folder / f"{form.name}{form.suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        form.make(path)
        with tempfile.TemporaryDirectory(prefix="sepify-fuzz-") as place:
            form.read(_copy(path, Path(place)))  # also imports what the forks will need
    return Valid(form, path)


def _copy(path: Path, folder: Path) -> Path:
    target = folder / path.name
    (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
    return target


def run_cases(valid: Valid, seed: int, first: int, count: int) -> Tally:
    """Run so many cases in forks of this process."""
    tally, case, last = Tally(), first, first + count
    while case < last:
        case = _run_chunk(valid, seed, case, min(case + CHUNK, last), tally)
    return tally


def _run_chunk(valid: Valid, seed: int, case: int, last: int, tally: Tally) -> int:
    """Run cases in one fork; the first that was not run."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.close(reader)
            _child(valid, seed, range(case, last), writer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        for line in told:
            answer = json.loads(line)
            tally.ended[answer["ended"]] += 1
            if answer["ended"] == "failed":
                tally.failures[case] = answer["why"]
            case += 1
    _, status = os.waitpid(child, 0)
    if case < last:  # it did not get to the end
        told_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        why = "took too long" if told_by == signal.SIGALRM else f"ended the process ({status})"
        tally.ended["failed"] += 1
        tally.failures[case] = why
        case += 1
    return case


def _child(valid: Valid, seed: int, cases: range, writer: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for case in cases:
        signal.alarm(SECONDS)
        ended, why = run_case(valid, seed, case)
        signal.alarm(0)
        os.write(writer, (json.dumps({"ended": ended, "why": why}) + "\n").encode())


def run_case(valid: Valid, seed: int, case: int) -> tuple[str, str]:
    """("accepted" or "refused" or "failed", what was wrong)."""
    with tempfile.TemporaryDirectory(prefix="sepify-fuzz-") as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = valid.mutated(seed, case, Path(place))
        try:
            valid.format.read(path)
        except SepifyError as error:
            message = str(error)
            if len(message) > 2000 or not message.isprintable():
                return "failed", f"unreadable message: {message[:200]!r}"
            return "refused", ""
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {str(error)[:150]!r}"
            return "failed", f"{told} in {Path(last.filename).name}:{last.lineno}"
        return "accepted", ""


def main() -> int:
    """Fuzz until the time is over; 1 where anything failed."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=float, default=float("inf"))
    options.add_argument("--format", action="append", help="one or several of them")
    options.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    options.add_argument("--case", type=int, help="run this one alone, here")
    given = options.parse_args()
    forms = [f for f in available() if not given.format or f.name in given.format]
    tallies = {form.name: Tally() for form in forms}
    with tempfile.TemporaryDirectory(prefix="sepify-valid-") as folder:
        valid = [make_valid(form, Path(folder)) for form in forms]
        if given.case is not None:
            for one in valid:
                with tempfile.TemporaryDirectory() as place:
                    one.format.read(one.mutated(given.seed, given.case, Path(place)))
            return 0
        print(f"seed {given.seed}, {len(valid)} formats; Ctrl-C ends it", flush=True)
        until, case = time.monotonic() + given.seconds, 0
        with suppress(KeyboardInterrupt):
            while time.monotonic() < until:
                for one in valid:
                    found = run_cases(one, given.seed, case, CHUNK)
                    tallies[one.format.name].ended += found.ended
                    tallies[one.format.name].failures |= found.failures
                    for number, why in found.failures.items():
                        again = f"--format {one.format.name} --seed {given.seed} --case {number}"
                        print(f"FAILED {again}: {why}", flush=True)
                    if time.monotonic() > until:
                        break
                case += CHUNK
    _print_table(tallies)
    return any(tally.failures for tally in tallies.values())


def _print_table(tallies: dict[str, Tally]) -> None:
    columns = ("refused", "accepted", "failed")
    print(f"| format | files | {' | '.join(columns)} |\n|---|---|---|---|---|")
    total: Counter[str] = Counter()
    for name, tally in tallies.items():
        total += tally.ended
        numbers = [f"{tally.ended[column]:,}" for column in columns]
        print(f"| {name} | {tally.ended.total():,} | {' | '.join(numbers)} |")
    numbers = [f"{total[column]:,}" for column in columns]
    print(f"| in all | {total.total():,} | {' | '.join(numbers)} |")


if __name__ == "__main__":
    sys.exit(main())
