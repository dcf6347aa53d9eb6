"""torch.export's programs as Relax modules."""

from __future__ import annotations

import re
import warnings

import torch
import tvm
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from sepify.compiling.tvm_api.converters import converters
from sepify.compiling.tvm_api.names import Module
from sepify.errors import CompileError, first_line


class UnknownOperators(CompileError):
    """TVM's importer does not know `operators`, named as `linalg_eig.default`."""

    def __init__(self, operators: tuple[str, ...]) -> None:
        super().__init__(f"TVM has no lowering for the operator {', '.join(operators)}")
        self.operators = operators


def import_exported(program: torch.export.ExportedProgram) -> Module:
    """A Relax module whose `main` is one dataflow block, weights as constants, of a `program` in
    torch's core operators.

    Raises UnknownOperators, or another CompileError where the importer fails.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's own copies of a program
            module = from_exported_program(
                program,
                unwrap_unit_return_tuple=True,
                custom_convert_map=converters(),
                run_ep_decomposition=False,
            )
    except Exception as error:  # whatever an operator's converter stumbles over
        raise _import_failure(error) from error
    passes = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    return tvm.transform.Sequential(passes)(module)


def _import_failure(error: BaseException) -> CompileError:
    missing = re.search(r"Unsupported function types \[(.*?)\]", str(error))
    if missing:
        return UnknownOperators(tuple(re.findall(r"[\w.]+", missing[1])))
    return CompileError(f"TVM could not import the network: {first_line(error)}")
