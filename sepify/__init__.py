"""sepify: trained convolutional networks, made depthwise separable, compiled and measured."""

import sys

if sys.argv[:1] == ["-m"] and "sepify" in sys.orig_argv and not getattr(sys.flags, "safe_path", 0):
    del sys.path[0]  # `python -m sepify`: nothing is imported from the folder it is started in

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sepify import errors
from sepify.calibration.refine import Refinement
from sepify.conversion import Conversion, convert
from sepify.planning.make import make_plan as plan
from sepify.plans.budget import Budget
from sepify.plans.file import load_plan, save_plan
from sepify.plans.forms import Keep, Separate
from sepify.plans.plan import Decision, Plan

if TYPE_CHECKING:
    from sepify.compiling import CompiledModel, compile, load_compiled
    from sepify.distilling import DistillationPair, Losses, Training, distill
    from sepify.formats import load_weights, save_model
    from sepify.measuring import Report, compare, load_report

__version__ = "0.1.0"

# Loaded at first use: neither TVM, torch.export nor a plotting library is needed to convert.
_LATER = {
    "CompiledModel": "sepify.compiling",
    "compile": "sepify.compiling",
    "load_compiled": "sepify.compiling",
    "DistillationPair": "sepify.distilling",
    "Losses": "sepify.distilling",
    "Training": "sepify.distilling",
    "distill": "sepify.distilling",
    "Report": "sepify.measuring",
    "compare": "sepify.measuring",
    "load_report": "sepify.measuring",
    "load_weights": "sepify.formats",
    "save_model": "sepify.formats",
}

__all__ = [
    "Budget",
    "CompiledModel",
    "Conversion",
    "Decision",
    "DistillationPair",
    "Keep",
    "Losses",
    "Plan",
    "Refinement",
    "Report",
    "Separate",
    "Training",
    "compare",
    "compile",
    "convert",
    "distill",
    "errors",
    "load_compiled",
    "load_plan",
    "load_report",
    "load_weights",
    "plan",
    "save_model",
    "save_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'sepify' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
