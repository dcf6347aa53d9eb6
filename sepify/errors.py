"""Every error that sepify raises on purpose: one readable sentence, and the exit code it means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sepify.printable import printable

if TYPE_CHECKING:
    from torch.fx import GraphModule

_LONGEST = 400  # characters of another library's message that are worth reading


_LONG_NAME = re.compile(r"\S{1000,}")  # of a damaged file; no path or layer is called so


class _Printable(Exception):
    """Says what it says without control characters, and absurdly long names by their ends: names
    from files stand in its message."""

    def __str__(self) -> str:
        text = printable(super().__str__())
        return _LONG_NAME.sub(lambda name: f"{name[0][:200]}...{name[0][-200:]}", text)


class SepifyError(_Printable):
    """The work failed; the message says what, where and what to do next. Exit code 1."""

    exit_code = 1


class UsageError(SepifyError):
    """The request itself makes no sense (a bad option, a bad value). Exit code 2."""

    exit_code = 2


class FileError(SepifyError):
    """A file is missing, truncated, of another kind, or cannot be written."""


class CaptureError(SepifyError):
    """A model could not be turned into a graph."""


class InputError(SepifyError):
    """Example inputs or data do not fit the model: shape, dtype, number, NaN."""


class PlanError(SepifyError):
    """A plan does not fit the model, or contradicts itself."""


class ConversionError(SepifyError):
    """A convolution could not be rewritten, or the rewritten network is not sound."""


class PassError(SepifyError):
    """A pass failed or broke its postcondition; names the pass and those already run."""


class CompileError(SepifyError):
    """A network could not be compiled for the target, or the result is wrong."""


class DistillationError(SepifyError):
    """The training had to stop; `student` is the best network until then, None if there is none."""

    def __init__(self, message: str, student: GraphModule | None = None) -> None:
        super().__init__(message)
        self.student = student


class DeviceError(SepifyError):
    """A board, or the tracker of several, cannot be reached, refuses, or is gone."""


class DependencyError(SepifyError):
    """An optional package is missing; the message says which extra installs it."""


class SepifyWarning(_Printable, UserWarning):
    """Something the user should know before trusting the result; the work goes on."""


class UntrainedWarning(SepifyWarning):
    """What was asked for needs training afterwards: its start is not meant to be used."""


class CalibrationWarning(SepifyWarning):
    """The calibration data will do, but not as well as the user may think."""


class FidelityWarning(SepifyWarning):
    """The converted network is far from the original, or nobody knows how far."""


class DistillationWarning(SepifyWarning):
    """The student will learn, but not as well as the user may think."""


class DataWarning(SepifyWarning):
    """The labelled data does not look as the original network expects it."""


class BoardWarning(SepifyWarning):
    """What times are measured on is no board: they say nothing about one."""


class TuningWarning(SepifyWarning):
    """An operator has no tuned schedule, and may be slow."""


class ThreadWarning(SepifyWarning):
    """Several threads may be slow beside other busy processes."""


class DatabaseWarning(SepifyWarning):
    """Tuning records are there that cannot be used."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, cut where it is very long; its type
    where it says nothing, or fails to say it."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a user's own __str__
        lines = []
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
