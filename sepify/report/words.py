"""Parts of a report as text: ratios, layers, classes, machines."""

from __future__ import annotations

from sepify.judging.changes import Changes
from sepify.judging.number_words import digits
from sepify.process.machine import Machine
from sepify.report.model import LayerRow, ReportData
from sepify.timing.race import Ratio

ARROW = "\N{RIGHTWARDS ARROW}"


def ratio_range(ratio: Ratio) -> str:
    """The 95 % interval of a ratio: "2.05-2.20"."""
    return f"{digits(ratio.low)}\N{EN DASH}{digits(ratio.high)}"


def kernel_text(kernel: tuple[int, ...]) -> str:
    """(64, 32, 3, 3) -> "32->64 3x3": channels in and out, then the window."""
    arrow, by = "\N{RIGHTWARDS ARROW}", "\N{MULTIPLICATION SIGN}"
    if len(kernel) < 2:
        return by.join(map(str, kernel))
    return f"{kernel[1]}{arrow}{kernel[0]} {by.join(map(str, kernel[2:]))}".rstrip()


def decision_text(layer: LayerRow) -> str:
    """What the plan did: "dw-pw, rank 2", "keep", or nothing for a layer that is not in it."""
    if layer.action == "separate":
        return f"{layer.order}, rank {layer.rank}"
    if layer.rank is not None:
        return f"{layer.action}, {layer.rank} channels"
    return layer.action or ""


def class_text(changes: Changes, number: int) -> str:
    """The name of a class, or "class 3" where nobody named them."""
    if number < len(changes.names):
        return changes.names[number]
    return f"class {number}"


def loss_unit(report: ReportData) -> str:
    """The unit of the planner's loss, in words."""
    return "nats" if report.prospect_unit == "kl" else "of the outputs' variance"


def machine_text(machine: Machine) -> str:
    """The machine in one line."""
    cpus = f"{machine.cpus} CPU" + "s" * (machine.cpus != 1)
    extensions = f" ({' '.join(machine.extensions)})" if machine.extensions else ""
    return f"{machine.cpu}, {cpus}{extensions}, {machine.system}"


def versions_text(versions: dict[str, str]) -> str:
    """ "python 3.11.7, torch 2.13.0"."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def sqnr_text(report: ReportData) -> str:
    """Signal-to-quantisation-noise ratio of the outputs in dB, in words where there is none."""
    if report.fidelity is None:
        return "not measured"
    if report.fidelity.identical:
        return "none: identical outputs"
    if report.fidelity.sqnr is None:
        return "none: the original answers zero"
    return f"{report.fidelity.sqnr:.1f} dB"
