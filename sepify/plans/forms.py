"""The forms that a convolution can take: a closed set of frozen dataclasses, one row of `FORMS`
each.

A form says what it costs, which kernels and styles it suits, and what it is called; its fields are
its entries in a plan's file. How its weights are found is a row of `SOLVERS` in
`sepify/factorize/solvers.py`. docs/how-to/add-a-form.md shows how a form is added.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from torch import nn

from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.plans.chains import Bottleneck, LowRank, Spatial
from sepify.plans.costs import Cost, standard_cost
from sepify.plans.form import FieldError, Form, Kernel, field_types, window_of
from sepify.plans.styles import Style

Order = Literal["dw-pw", "pw-dw"]
ORDERS: tuple[Order, ...] = ("dw-pw", "pw-dw")


@dataclass(frozen=True)
class Keep(Form):
    """The convolution stays as it is."""

    kind: ClassVar[str] = "keep"
    rewrites: ClassVar[bool] = False

    @property
    def words(self) -> str:
        """ "kept"."""
        return "kept"

    @property
    def short(self) -> str:
        """ "keep"."""
        return "keep"

    @property
    def parts(self) -> tuple[str, ...]:
        """None: the convolution itself stays."""
        return ()

    def cost(
        self, convolution: Convolution, maps: Maps | None, *, bias: bool, style: Style = "linear"
    ) -> Cost:
        """The cost of the convolution, which `bias` and `style` do not change."""
        return standard_cost(convolution, maps)

    def stand_in(self, conv: nn.Conv2d) -> nn.Sequential:
        """A copy of the convolution."""
        return nn.Sequential(copy.deepcopy(conv))

    def is_exact(self, kernel: Kernel) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class Separate(Form):
    """Depthwise and pointwise in either `order`, with `rank` separable terms a channel."""

    order: Order
    rank: int

    kind: ClassVar[str] = "separate"

    @property
    def words(self) -> str:
        """ "dw-pw at rank 2"."""
        return f"{self.order} at rank {self.rank}"

    @property
    def step_words(self) -> str:
        """ "rank 2"."""
        return f"rank {self.rank}"

    @property
    def short(self) -> str:
        """ "dw-pw 2"."""
        return f"{self.order} {self.rank}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The depthwise and the pointwise convolution, in `order`."""
        first_last = ("depthwise", "pointwise")
        return first_last if self.order == "dw-pw" else first_last[::-1]

    @property
    def family(self) -> str:
        """One for each order."""
        return self.order

    @property
    def step(self) -> int:
        """The rank."""
        return self.rank

    def cost(
        self, convolution: Convolution, maps: Maps | None, *, bias: bool, style: Style = "linear"
    ) -> Cost:
        """r * (D_K*D_K*M + M*N) * D_F*D_F multiply-adds for dw-pw (Howard et al. 2017, MobileNets,
        section 3.1, times the rank r); for pw-dw the M*N*r part at the size of the map that is
        read. The bias adds N parameters and no multiply-adds. Bytes as for the standard
        convolution, and the map between the two written and read."""
        out_channels, in_channels, kh, kw = convolution.kernel
        between = self._between(convolution.kernel)
        depthwise = between * kh * kw
        pointwise = self.rank * in_channels * out_channels
        params = depthwise + pointwise + (out_channels if bias else 0)
        params += self.style_params(convolution.kernel, style)
        if maps is None:
            return Cost(None, params)
        mixed_at = maps.written if self.order == "dw-pw" else maps.read
        ends = in_channels * maps.read + out_channels * maps.written
        assert convolution.module is not None
        values = ends + 2 * between * mixed_at + params
        moved = int(values * convolution.module.weight.element_size())
        return Cost(int(depthwise * maps.written + pointwise * mixed_at), params, moved)

    def stand_in(self, conv: nn.Conv2d) -> nn.Sequential:
        """The two convolutions; a bias on the last."""
        ins, outs = conv.in_channels, conv.out_channels
        between = self._between((outs, ins))
        if self.order == "dw-pw":
            depthwise = nn.Conv2d(ins, between, groups=ins, bias=False, **window_of(conv))
            return nn.Sequential(depthwise, nn.Conv2d(between, outs, 1))
        pointwise = nn.Conv2d(ins, between, 1, bias=False)
        return nn.Sequential(pointwise, nn.Conv2d(between, outs, groups=outs, **window_of(conv)))

    def fault(self, kernel: Kernel, style: Style) -> str | None:
        """A 1x1 convolution, a rank above the full one, or a style that has another order."""
        if kernel[2:] == (1, 1):
            return "1x1: already pointwise"
        highest = full_rank(kernel, self.order)
        if self.rank > highest:
            return (
                f"rank {self.rank} is too high, {highest} is already exact for a kernel {kernel} "
                f"as {self.order}"
            )
        if style != "linear" and self.order != "dw-pw":
            return f"style '{style}' is depthwise first, not {self.order}"
        return None

    def is_exact(self, kernel: Kernel) -> bool:
        """At full rank."""
        return self.rank >= full_rank(kernel, self.order)

    def extent(self, kernel: Kernel) -> str:
        """ "rank 2 of 9"."""
        return f"{self.step_words} of {full_rank(kernel, self.order)}"

    def style_params(self, kernel: Kernel, style: Style) -> int:
        """Two for each map between the parts, which BatchNorm has."""
        return 0 if style == "linear" else 2 * self._between(kernel)

    @classmethod
    def candidates(cls, kernel: Kernel) -> Iterator[Form]:
        """Every order and rank up to the full one; none for a 1x1 convolution."""
        if kernel[2:] == (1, 1):
            return
        for order in ORDERS:
            for rank in range(1, full_rank(kernel, order) + 1):
                yield cls(order, rank)

    def _between(self, kernel: Kernel) -> int:
        """Channels of the map between the two."""
        return self.rank * (kernel[1] if self.order == "dw-pw" else kernel[0])


_ALL: tuple[type[Form], ...] = (Keep, Separate, Bottleneck, LowRank, Spatial)
FORMS: dict[str, type[Form]] = {form.kind: form for form in _ALL}


def full_rank(kernel: Kernel, order: Order) -> int:
    """The rank at which a kernel (N, M, kh, kw) is reproduced exactly: min(N, kh*kw) for dw-pw,
    min(M, kh*kw) for pw-dw (the ranks of the matrices that are factorised)."""
    out_channels, in_channels, kh, kw = kernel
    channels = out_channels if order == "dw-pw" else in_channels
    return min(channels, kh * kw)


def form_to_dict(form: Form) -> dict[str, Any]:
    """`form` in plain JSON types: its kind under "form", then its fields."""
    return {"form": form.kind, **asdict(form)}  # type: ignore[call-overload]


def form_from_dict(entries: Mapping[str, Any]) -> Form:
    """The form that `form_to_dict` made `entries` from. Raises FieldError, naming the field, for a
    form that is not known, and a field that is missing, unknown or has a value that it cannot
    have."""
    kind = entries.get("form")
    if not isinstance(kind, str) or kind not in FORMS:
        raise FieldError("form", f"form {kind!r} is none of {', '.join(FORMS)}")
    made = FORMS[kind]
    given = {key: value for key, value in entries.items() if key != "form"}
    for name in given:
        if name not in field_types(made):
            raise FieldError(name, f"{name} does not belong to form '{kind}'")
    for field in fields(made):  # type: ignore[arg-type]
        if field.name not in given and field.default is MISSING:
            raise FieldError("form", f"form '{kind}' needs {field.name}")
    return made(**given)


def form_fields() -> tuple[str, ...]:
    """The names of all fields of all forms."""
    return tuple(dict.fromkeys(name for form in FORMS.values() for name in field_types(form)))
