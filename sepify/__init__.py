"""sepify: trained convolutional networks, made depthwise separable, compiled and measured."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sepify import errors
from sepify.calibration.refine import Refinement
from sepify.convert import Conversion, convert
from sepify.convert import make_plan as plan
from sepify.planning import Decision, Plan, load_plan, save_plan

if TYPE_CHECKING:
    from sepify.compiling import CompiledModel, compile, load_compiled
    from sepify.measuring import Report, compare, load_report

__version__ = "0.1.0"

# Loaded at first use: neither TVM nor a plotting library is needed to convert a network.
_LATER = {
    "CompiledModel": "sepify.compiling",
    "compile": "sepify.compiling",
    "load_compiled": "sepify.compiling",
    "Report": "sepify.measuring",
    "compare": "sepify.measuring",
    "load_report": "sepify.measuring",
}

__all__ = [
    "CompiledModel",
    "Conversion",
    "Decision",
    "Plan",
    "Refinement",
    "Report",
    "compare",
    "compile",
    "convert",
    "errors",
    "load_compiled",
    "load_plan",
    "load_report",
    "plan",
    "save_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'sepify' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
