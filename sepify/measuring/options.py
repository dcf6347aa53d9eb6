"""What `compare` may be told beyond two networks and data: frozen groups with defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sepify.graph.running import Inputs
from sepify.judging.metrics import Metric
from sepify.planning.candidates import Measurements
from sepify.plans.plan import Plan
from sepify.report.model import Origin
from sepify.timing.runtimes import Compiled

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm


@dataclass(frozen=True)
class Judging:
    """How answers are judged.

    Attributes:
        unlabelled: inputs for fidelity; by default the images of `data`, or else the example.
        metric: metric(output, labels) -> one number an image `(n,)`, instead of top-1; labels are
            then targets of any shape `(n, ...)`.
        names: of the classes, in the order of their numbers.
        unjudged: why there are neither `data` nor `unlabelled` inputs: then no fidelity is claimed,
            where else it is measured on the example alone.
    """

    unlabelled: Tensor | Inputs | None = None
    metric: Metric | None = None
    names: Sequence[str] = ()
    unjudged: str = ""


@dataclass(frozen=True)
class Timing:
    """What is timed, and where.

    Attributes:
        target: TVM target to compile both for, this machine's; None leaves TVM out.
        threads: numbers of threads, by default (1, 2) where the machine has two CPUs; () times
            nothing.
        compiled: both networks as `sepify.compile` returned them, instead of compiling here.
        seconds: about how long the timing itself may take.
        seed: of the order of turns and of the bootstrap.
        farm: a board to time both on as well, from `sepify.compiling.find_farm`.
        device_target: what to compile both for then, such as "raspberry-pi-4".
    """

    target: str | None = "native"
    threads: Sequence[int] | None = None
    compiled: tuple[Compiled, Compiled] | None = None
    seconds: float = 20.0
    seed: int = 0
    farm: Farm | None = None
    device_target: str | None = None


@dataclass(frozen=True)
class Alternatives:
    """What stands beside this conversion on the frontier.

    Attributes:
        beside: other conversions of the same network, by label.
        measurements: what planning measured: the layers' rank curves and the planner's frontier.
    """

    beside: Mapping[str, nn.Module] = field(default_factory=dict)
    measurements: Measurements | None = None


@dataclass(frozen=True)
class Provenance:
    """Where the converted network comes from.

    Attributes:
        plan: what was done to each layer; by default `after.meta["sepify"].plan`.
        sizes: bytes on disk, before and after; by default of TorchScript files, written to measure
            and deleted.
        origin: how to make the report again; by default the plan alone.
    """

    plan: Plan | None = None
    sizes: tuple[int, int] | None = None
    origin: Origin | None = None
