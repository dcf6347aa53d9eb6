"""What LLVM knows of CPUs: this one's, and any other that it makes code for."""

from __future__ import annotations

import difflib
from typing import Any

import tvm
import tvm_ffi
from tvm.target.codegen import llvm_get_cpu_archlist, llvm_get_cpu_features

from sepify.errors import UsageError, first_line

# what LLVM puts into ordinary code; its other "features" are tuning hints or system instructions
_CODE_FEATURES = {
    *("fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt", "cx16"),  # x86
    *("neon", "fullfp16", "dotprod", "fp16fml", "complxnum", "bf16", "i8mm", "lse"),  # armv8
    *("sve", "sve2", "vfp4", "hwdiv-arm"),  # armv8, armv7
}
_CODE_PREFIXES = ("sse", "ssse", "avx")


def host_cpu() -> str:
    """LLVM's name of this CPU."""
    return str(tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUName")())


def host_features() -> frozenset[str]:
    """Instruction set extensions that this CPU has and this system lets us use."""
    features = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return frozenset(str(name) for name, present in features.items() if bool(present))


def make_target(description: dict[str, Any]) -> Any:
    """A `tvm.target.Target`. Raises UsageError if LLVM has no code generator for its triple."""
    try:
        return tvm.target.Target(description)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"LLVM does not know this target: {first_line(error)}") from error


def require_cpu(triple: str, cpu: str) -> None:
    """Raise UsageError if LLVM knows no such CPU, for which it would make generic code and say so
    in its log alone."""
    any_cpu = make_target({"kind": "llvm", "mtriple": triple})
    known = [str(name) for name in llvm_get_cpu_archlist(any_cpu)]
    if cpu not in known:
        near = difflib.get_close_matches(cpu, known) or known[:8]
        raise UsageError(f"LLVM knows no CPU {cpu!r} for {triple}; try {', '.join(near)}")


def code_features(target: Any) -> frozenset[str]:
    """Instruction set extensions that code compiled for `target` may contain."""
    names = (str(name) for name in llvm_get_cpu_features(target))
    return frozenset(n for n in names if n in _CODE_FEATURES or n.startswith(_CODE_PREFIXES))
