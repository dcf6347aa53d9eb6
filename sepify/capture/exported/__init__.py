"""Front end for torch.export: an ExportedProgram -> a plain torch.fx.GraphModule.

`program.module()` can neither change its mode, nor be pickled or scripted, and refuses batch sizes
that the network takes. So its graph is built anew (rebuild.py): parameters and buffers under their
own names, torch's functions in place of aten overloads (operators.py), and the decisions that
torch.export made for the sizes of the example as runtime checks (guards.py). Modules that no other
front end can trace are exported first (export.py).
"""

from sepify.capture.exported.export import OPENNESS, export_module, varied
from sepify.capture.exported.program import example_inputs_of, run_program, state_of_program
from sepify.capture.exported.rebuild import Rebuilt, rebuild

__all__ = [
    "OPENNESS",
    "Rebuilt",
    "example_inputs_of",
    "export_module",
    "rebuild",
    "run_program",
    "state_of_program",
    "varied",
]
