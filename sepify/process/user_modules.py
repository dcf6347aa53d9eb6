"""Python of the user's own, as module:name: told from a file's name, and imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from sepify.errors import UsageError, first_line
from sepify.faults import users_code


def names_a_function(spec: str) -> bool:
    """Whether `spec` reads as module:name, and is no file of that name."""
    module, colon, name = spec.rpartition(":")
    looks_so = bool(colon) and name.isidentifier() and "/" not in module
    return looks_so and not Path(spec).exists()


def import_named(spec: str) -> Any:
    """What "package.module:name" names; importing runs that module's code. Raises UsageError.

    The module may lie in the current folder and import its neighbours. What is installed goes
    before these: no file that merely lies there stands in for a library.
    """
    place, _, name = spec.rpartition(":")
    try:
        with (
            users_code(f"importing '{place}' for {spec}", UsageError),
            _found_here(place.partition(".")[0]),
        ):
            module = importlib.import_module(place)
    except UsageError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        why = first_line(error.__cause__)
        raise UsageError(f"cannot import '{place}' for {spec}: {why}") from error.__cause__
    with users_code(f"'{name}' of '{place}'", UsageError):  # a module may have a __getattr__
        if not hasattr(module, name):
            raise UsageError(f"'{place}' has no '{name}'")
        return getattr(module, name)


@contextmanager
def _found_here(named: str) -> Iterator[None]:
    """The module `named` is looked for in the current folder first, any other there last."""
    here = str(Path.cwd())
    finder, added = _Finder(named, here), here not in sys.path
    sys.meta_path.insert(0, finder)
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if added and here in sys.path:
            sys.path.remove(here)


@dataclass(frozen=True)
class _Finder(MetaPathFinder):
    named: str
    folder: str

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> ModuleSpec | None:
        """As the import system asks for it."""
        return PathFinder.find_spec(fullname, [self.folder]) if fullname == self.named else None
