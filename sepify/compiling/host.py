"""What this machine's system says of its CPU, without loading LLVM."""

from __future__ import annotations

from collections.abc import Iterable

from sepify.process.machine import cpuinfo

# LLVM's name of an extension -> that in Linux's /proc/cpuinfo, without dots and underscores;
# the others are the same
_LINUX_NAMES = {
    **{"sse3": "pni", "lzcnt": "abm", "bmi": "bmi1"},
    **{"neon": "asimd", "fullfp16": "asimdhp", "dotprod": "asimddp", "fp16fml": "asimdfhm"},
    **{"complxnum": "fcma", "lse": "atomics"},
}


def confirms(features: Iterable[str]) -> bool:
    """Whether Linux lists every one of LLVM's `features` for this CPU. False says nothing: the
    system may be another, or have another name for it; LLVM knows (`tvm_api.host_features`)."""
    facts = cpuinfo()
    listed = {_plain(flag) for flag in facts.get("flags", facts.get("Features", "")).split()}
    plain = (_plain(feature) for feature in features)
    return all(_LINUX_NAMES.get(name, name) in listed for name in plain)


def _plain(name: str) -> str:
    return name.replace("_", "").replace(".", "")
