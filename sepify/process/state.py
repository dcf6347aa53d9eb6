"""What belongs to the whole process, not to a call: random states, torch's flags, filters, classes.

Solving seeds, a model draws numbers while it is tried or counts in an attribute of its class, a
library that is loaded for the first time adds a filter for warnings. None of this outlasts a call
of sepify.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from operator import is_
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import nn

from sepify.process.lock import one_at_a_time

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class _Setting:
    """One thing that the process holds. `read` gives a value that later changes leave alone."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    same: Callable[[Any, Any], bool] = lambda now, before: bool(now == before)


def _same_tensors(now: list[torch.Tensor], before: list[torch.Tensor]) -> bool:
    return len(now) == len(before) and all(map(torch.equal, now, before))


def _numpy_state() -> tuple[Any, ...]:
    kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return (kind, keys.tobytes(), *rest)


def _set_numpy_state(state: tuple[Any, ...]) -> None:
    kind, keys, *rest = state
    np.random.set_state((kind, np.frombuffer(keys, np.uint32), *rest))


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_cuda_states(states: list[torch.Tensor]) -> None:
    if states:  # there is nothing to put back where the call itself has started CUDA
        torch.cuda.set_rng_state_all(states)


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]  # a list, whatever typeshed says
    warnings._filters_mutated()  # type: ignore[attr-defined]  # or what was decided stays so


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


SETTINGS = (
    _Setting(random.getstate, random.setstate),
    _Setting(_numpy_state, _set_numpy_state),
    _Setting(lambda: [torch.get_rng_state()], lambda s: torch.set_rng_state(s[0]), _same_tensors),
    _Setting(_cuda_states, _set_cuda_states, _same_tensors),
    _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(torch.get_default_dtype, torch.set_default_dtype),
    _Setting(torch.get_num_threads, torch.set_num_threads),
    _Setting(_deterministic, lambda s: torch.use_deterministic_algorithms(s[0], warn_only=s[1])),
    _Setting(lambda: list(warnings.filters), _set_filters),
)


def keeps_process_state(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function: after a call the process, and the classes of the models that it
    was given, hold what they held before. Another thread's call of one waits for it."""

    @wraps(function)
    def keeping(*args: P.args, **kwargs: P.kwargs) -> R:
        models = [value for value in (*args, *kwargs.values()) if isinstance(value, nn.Module)]
        with one_at_a_time(), process_state_kept(*models):
            return function(*args, **kwargs)

    return keeping


@contextmanager
def process_state_kept(*models: nn.Module) -> Iterator[None]:
    """The same for a block. What did not change is not written: another thread may be using it."""
    before = [setting.read() for setting in SETTINGS]
    kinds = {kind for model in models for module in model.modules() for kind in type(module).mro()}
    classes = {kind: _data_of(kind) for kind in kinds if not _is_torchs(kind)}
    try:
        with _ordinary_numbers():
            yield
    finally:
        for setting, value in zip(SETTINGS, before, strict=True):
            if not setting.same(setting.read(), value):
                setting.write(value)
        for kind, held in classes.items():
            _put_back(kind, held)


@contextmanager
def _ordinary_numbers() -> Iterator[None]:
    """Neither autocast nor inference mode of the caller's: nothing can be refined in the one, and
    what is solved in the other is rounded."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _is_torchs(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "builtins", "typing", "abc")


def _data_of(kind: type) -> dict[str, tuple[Any, Any]]:
    """The attributes of the class itself that are neither methods nor Python's own, and of each
    container a copy."""
    return {
        name: (value, value.copy() if type(value) in (dict, list, set) else None)
        for name, value in vars(kind).items()
        if not (name.startswith("__") or callable(value) or hasattr(type(value), "__get__"))
    }


def _put_back(kind: type, held: dict[str, tuple[Any, Any]]) -> None:
    for name in _data_of(kind).keys() - held.keys():
        delattr(kind, name)
    for name, (value, contents) in held.items():
        if vars(kind).get(name) is not value:
            setattr(kind, name, value)
        if contents is not None and not _holds_the_same(value, contents):
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(contents)


def _holds_the_same(now: Any, before: Any) -> bool:
    if isinstance(now, set) or len(now) != len(before):
        return bool(len(now) == len(before) and now == before)
    if isinstance(now, dict):
        return list(now) == list(before) and all(map(is_, now.values(), before.values()))
    return all(map(is_, now, before))
