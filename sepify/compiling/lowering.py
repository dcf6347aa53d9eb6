"""Rewrites an imported network step by step: own kernels where there are any, everything else as
it was, in the layout that each step needs."""

from __future__ import annotations

from typing import Any

from sepify.compiling import tvm_api
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.lower_convs import find_kernels
from sepify.compiling.lower_others import lower_other
from sepify.compiling.steps import Network
from sepify.compiling.values import Choose, Values


def lower(
    module: tvm_api.Module, machine: Machine, choose: Choose = lambda _workload: None
) -> tvm_api.Module:
    """A new Relax module that computes the same as `module`; `choose` is asked for the knobs of
    each kernel that has any, once for each call of it."""
    network = Network(module, machine.element)
    kernels, covered = find_kernels(network, machine)
    builder = tvm_api.Builder(network.inputs)
    values = Values(builder, machine, choose)
    for variable in network.inputs:
        values.set_plain(variable, variable)

    def body() -> Any:
        for step in network.steps:
            if step.variable in kernels:
                kernels[step.variable](values)
            elif step.variable not in covered and not lower_other(network, values, step):
                values.set_plain(step.variable, builder.emit(values.copy(step.value)))
        return values.copy(network.result)

    return tvm_api.remove_dead_code(builder.write(body))
