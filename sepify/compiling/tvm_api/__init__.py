"""The parts of TVM that change from release to release, in one place. Importing this loads tvm,
compiler and all; what runs without the compiler is `sepify.compiling.tvm_runtime`.

Written for apache-tvm 0.27.0 with apache-tvm-ffi 0.1.14.
"""

from sepify.compiling.tvm_api.arrays import tensor
from sepify.compiling.tvm_api.building import (
    assemble,
    build,
    export,
    fuse,
    memory_use,
    plan_memory,
)
from sepify.compiling.tvm_api.cpus import (
    code_features,
    host_cpu,
    host_features,
    make_target,
    require_cpu,
)
from sepify.compiling.tvm_api.importing import UnknownOperators, import_exported
from sepify.compiling.tvm_api.names import Expr, Function, Module
from sepify.compiling.tvm_api.objects import write_objects
from sepify.compiling.tvm_api.reading import (
    bindings,
    called_functions,
    constant,
    fields,
    functions,
    is_own,
    is_variable,
    number,
    operator,
    parameters,
    result,
    shape,
    substitute,
    with_arguments,
)
from sepify.compiling.tvm_api.remote import (
    RemoteNetwork,
    connect,
    describe_board,
    set_remote_threads,
)
from sepify.compiling.tvm_api.weights import lift_weights, share_constants
from sepify.compiling.tvm_api.writing import (
    Builder,
    build_kernel,
    build_library,
    concatenate,
    first_columns,
    literal,
    parse_kernel,
    remove_dead_code,
    replace_function,
    reshape,
)

__all__ = [
    "Builder",
    "Expr",
    "Function",
    "Module",
    "RemoteNetwork",
    "UnknownOperators",
    "assemble",
    "bindings",
    "build",
    "build_kernel",
    "build_library",
    "called_functions",
    "code_features",
    "concatenate",
    "connect",
    "constant",
    "describe_board",
    "export",
    "fields",
    "first_columns",
    "functions",
    "fuse",
    "host_cpu",
    "host_features",
    "import_exported",
    "is_own",
    "is_variable",
    "lift_weights",
    "literal",
    "make_target",
    "memory_use",
    "number",
    "operator",
    "parameters",
    "parse_kernel",
    "plan_memory",
    "remove_dead_code",
    "replace_function",
    "require_cpu",
    "reshape",
    "result",
    "set_remote_threads",
    "shape",
    "share_constants",
    "substitute",
    "tensor",
    "with_arguments",
    "write_objects",
]
