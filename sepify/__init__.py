"""sepify: trained convolutional networks, made depthwise separable, compiled and measured."""

import sys

if sys.argv[:1] == ["-m"] and "sepify" in sys.orig_argv and not getattr(sys.flags, "safe_path", 0):
    del sys.path[0]  # `python -m sepify`: nothing is imported from the folder it is started in

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sepify import errors

if TYPE_CHECKING:
    from sepify.calibration.refine import Refinement
    from sepify.calibration.solver import Solver
    from sepify.compiling import CompiledModel, compile, load_compiled
    from sepify.conversion import Conversion, convert
    from sepify.distilling import Checkpoint, DistillationPair, Losses, Training, distill
    from sepify.formats.save import save_model
    from sepify.formats.weights import load_weights
    from sepify.measuring import Report, compare, load_report
    from sepify.measuring.options import Alternatives, Judging, Provenance, Timing
    from sepify.planning.make import make_plan as plan
    from sepify.plans.architecture import Architecture
    from sepify.plans.budget import Budget
    from sepify.plans.chains import Bottleneck, LowRank, Spatial
    from sepify.plans.file import load_plan, save_plan
    from sepify.plans.forms import Keep, Separate
    from sepify.plans.plan import Decision, Plan
    from sepify.quantising.quantisation import Quantisation
    from sepify.quantising.quantize import quantize
    from sepify.quantising.recipe import Recipe

__version__ = "0.1.0"

__all__ = [
    "Alternatives",
    "Architecture",
    "Bottleneck",
    "Budget",
    "Checkpoint",
    "CompiledModel",
    "Conversion",
    "Decision",
    "DistillationPair",
    "Judging",
    "Keep",
    "Losses",
    "LowRank",
    "Plan",
    "Provenance",
    "Quantisation",
    "Recipe",
    "Refinement",
    "Report",
    "Separate",
    "Solver",
    "Spatial",
    "Timing",
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
    "quantize",
    "save_model",
    "save_plan",
]


# Imported at first use, so that `import sepify` takes no time: the module of each public name, with
# the name that it has there where that is another.
_HOMES = {
    "Alternatives": "sepify.measuring.options",
    "Architecture": "sepify.plans.architecture",
    "Checkpoint": "sepify.distilling",
    "Judging": "sepify.measuring.options",
    "Provenance": "sepify.measuring.options",
    "Solver": "sepify.calibration.solver",
    "Timing": "sepify.measuring.options",
    "Bottleneck": "sepify.plans.chains",
    "Budget": "sepify.plans.budget",
    "CompiledModel": "sepify.compiling",
    "Conversion": "sepify.conversion",
    "Decision": "sepify.plans.plan",
    "DistillationPair": "sepify.distilling",
    "Keep": "sepify.plans.forms",
    "Losses": "sepify.distilling",
    "LowRank": "sepify.plans.chains",
    "Plan": "sepify.plans.plan",
    "Quantisation": "sepify.quantising.quantisation",
    "Recipe": "sepify.quantising.recipe",
    "Refinement": "sepify.calibration.refine",
    "Report": "sepify.measuring",
    "Separate": "sepify.plans.forms",
    "Spatial": "sepify.plans.chains",
    "Training": "sepify.distilling",
    "compare": "sepify.measuring",
    "compile": "sepify.compiling",
    "convert": "sepify.conversion",
    "distill": "sepify.distilling",
    "load_compiled": "sepify.compiling",
    "load_plan": "sepify.plans.file",
    "load_report": "sepify.measuring",
    "load_weights": "sepify.formats.weights",
    "plan": "sepify.planning.make:make_plan",
    "quantize": "sepify.quantising.quantize",
    "save_model": "sepify.formats.save",
    "save_plan": "sepify.plans.file",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sepify' has no attribute {name!r}")
    import random

    module, _, other = _HOMES[name].partition(":")
    drawn = random.getstate()  # rich draws numbers as it is loaded, and the caller's are not ours
    try:
        value = globals()[name] = getattr(import_module(module), other or name)
    finally:
        random.setstate(drawn)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
