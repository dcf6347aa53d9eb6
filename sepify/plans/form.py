"""What every form of a convolution says of itself, and the check of its fields."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from torch import nn

from sepify.errors import PlanError
from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.plans.costs import Cost
from sepify.plans.styles import Style

Kernel = tuple[int, ...]  # (N, M, kh, kw): out channels, in channels, window


class FieldError(PlanError):
    """A field of a form is missing, or has a value that the form cannot have."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Form(ABC):
    """What a convolution becomes. Subclasses are frozen dataclasses whose fields are whole numbers
    from 1, finite numbers or literals; other values raise a FieldError.

    Forms of one `family` are the steps of a ladder: a higher `step` costs more and loses less.
    """

    kind: ClassVar[str]
    """The name of the form in a plan's file and in `FORMS`."""
    rewrites: ClassVar[bool] = True
    """Whether the convolution becomes another module."""

    def __post_init__(self) -> None:
        for name, hint in field_types(type(self)).items():
            _require(name, getattr(self, name), hint)

    @property
    @abstractmethod
    def words(self) -> str:
        """The form in words: "dw-pw at rank 2"."""

    @property
    def step_words(self) -> str:
        """The step of the form on its ladder, in words: "rank 2"."""
        return self.words

    @property
    def short(self) -> str:
        """The form in a narrow table: "dw-pw 2"."""
        return self.words

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The submodules that stand in for the convolution, in execution order."""

    @property
    def family(self) -> str:
        """The ladder that the form belongs to."""
        return self.kind

    @property
    def step(self) -> int:
        """The place of the form on its ladder."""
        return 1

    @abstractmethod
    def cost(
        self, convolution: Convolution, maps: Maps | None, *, bias: bool, style: Style = "linear"
    ) -> Cost:
        """What the form costs in the place of `convolution`.

        Args:
            convolution: The convolution as it stands in the network.
            maps: The pixels that it reads and writes for one image, None if they are unknown.
            bias: Whether the form is to have a bias.
            style: What stands between the parts of the form.
        """

    @abstractmethod
    def stand_in(self, conv: nn.Conv2d) -> nn.Sequential:
        """Modules of the form's shapes for the timing of `conv`, with weights that do not
        matter."""

    def fault(self, kernel: Kernel, style: Style) -> str | None:
        """Why a convolution with this `kernel` cannot take the form in this `style`."""
        return None

    def is_exact(self, kernel: Kernel) -> bool:
        """Whether the form computes the same function as any convolution with this `kernel`."""
        return False

    def extent(self, kernel: Kernel) -> str:
        """The form beside the largest of its family: "rank 2 of 9"."""
        return self.words

    def style_params(self, kernel: Kernel, style: Style) -> int:
        """The parameters that `style` adds between the parts."""
        return 0

    @classmethod
    def candidates(cls, kernel: Kernel) -> Iterator[Form]:
        """The forms of this kind that the planner looks at, each family from its first step up."""
        return iter(())


@cache
def field_types(form: type[Form]) -> dict[str, Any]:
    """The fields of a form, each with the type of its values."""
    hints = get_type_hints(form)
    return {field.name: hints[field.name] for field in fields(form)}  # type: ignore[arg-type]


def _require(name: str, value: object, hint: Any) -> None:
    """Raise FieldError unless `value` is of the type `hint`."""
    if get_origin(hint) is Literal:
        if type(value) is not str or value not in get_args(hint):
            allowed = ", ".join(get_args(hint))
            raise FieldError(name, f"{name} {value!r} is none of {allowed}")
    elif hint is int:
        if type(value) is not int or value < 1:
            raise FieldError(name, f"{name} {value!r} is not a whole number from 1")
    elif hint is float:
        if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
            raise FieldError(name, f"{name} {value!r} is not a finite number")
    else:
        raise TypeError(f"{name}: a form has no field of type {hint}")


def window_of(conv: nn.Conv2d, axes: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """What a convolution in the place of `conv` takes over: its window, of one pixel but along
    `axes` (0 is down, 1 across)."""

    def along(values: tuple[int, ...], otherwise: int) -> tuple[int, ...]:
        return tuple(v if axis in axes else otherwise for axis, v in enumerate(values))

    padding: str | tuple[int, ...] = 0, 0
    if axes:  # 'same' and 'valid' mean the same for a part of the window
        padding = conv.padding if isinstance(conv.padding, str) else along(conv.padding, 0)
    return dict(
        kernel_size=along(conv.kernel_size, 1),
        stride=along(conv.stride, 1),
        padding=padding,
        dilation=along(conv.dilation, 1),
        padding_mode=conv.padding_mode if axes else "zeros",
    )
