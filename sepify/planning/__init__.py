"""Which convolution is rewritten, in which order, at which rank -> Plan."""

from sepify.planning.plan import Cost, Decision, Plan
from sepify.planning.plan_file import load_plan, save_plan
from sepify.planning.survey import Convolution, survey
from sepify.planning.uniform import plan_uniform

__all__ = [
    "Convolution",
    "Cost",
    "Decision",
    "Plan",
    "load_plan",
    "plan_uniform",
    "save_plan",
    "survey",
]
