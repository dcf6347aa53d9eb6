"""The bundle with TVM's runtime: the network as a library, the runner, a Python loader."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from torch import Tensor

from sepify.compiling.bundle.c_bundle import copy_source
from sepify.compiling.bundle.runtime_libraries import headers, runtime_libraries
from sepify.compiling.bundle.self_test import SelfTest, Written, run_self_test
from sepify.compiling.bundle.toolchain import find_launcher, require_compiler
from sepify.compiling.c_compiler import run_compiler
from sepify.compiling.kernels.elements import ELEMENTS
from sepify.compiling.model import dtype_name
from sepify.compiling.prepare import Prepared
from sepify.errors import CompileError
from sepify.storage import temporary_folder, write_bytes, write_text

_MOST_AXES = 8  # of SepifyValue
_LOADER = (
    "bundle_model.c",
    "bundle_tvm.c",
    "bundle_threads.c",
    "sepify_cpu.c",
    "sepify_sha256.c",
    "sepify_threads.c",
)
_PROGRAMS = {"run": ("bundle_run.c",), "serve": ("bundle_serve.c", "bundle_describe.c")}
_DEFINED = ("-DSEPIFY_THREADS", "-DSEPIFY_OLD_GLIBC")
# what every glibc since 2.17 can start: see old_glibc.c. Since 2.34 all is in libc, and -ldl finds
# an empty archive: where it is not, the libraries themselves have to be named.
_LIBRARIES = ("-Wl,--no-as-needed", "-l:libdl.so.2", "-l:libpthread.so.0")
_LINKED = ("-Wl,--wrap=__libc_start_main", *_LIBRARIES)


def write_runtime(ready: Prepared, folder: Path, tolerance: float) -> Written:
    """Write everything but `model.json` and the checksums into `folder`, which exists.

    Raises DependencyError where compiler or libraries are missing, CompileError where they fail or
    TVM has no runtime for the target.
    """
    from sepify.compiling import tvm_api

    compiler = require_compiler(ready.target)
    libraries = runtime_libraries(ready.target)
    planned = tvm_api.plan_memory(ready.module, ready.tvm_target)
    executable = tvm_api.assemble(planned, ready.tvm_target)
    tvm_api.export(executable, folder / "module.so", compiler)
    for name, path in libraries.items():
        write_bytes(folder / name, path.read_bytes())
    outputs = ready.expected
    for kind, tensors in (("input", ready.inputs), ("output", outputs)):
        for index, tensor in enumerate(tensors):
            content = tensor.detach().contiguous().numpy().tobytes()
            write_bytes(folder / f"{kind}{index}.bin", content)
    copy_source("model.py", folder / "model.py")
    with temporary_folder() as place:
        config = place / "config.c"
        write_text(config, _config(ready, outputs, tolerance))
        build_programs(compiler, config, folder)
    sizes = {name: (folder / name).stat().st_size for name in ("module.so", *libraries)}
    return Written(sizes)


def check_runtime(ready: Prepared, folder: Path) -> SelfTest | None:
    """Run the self-test where something here can."""
    launcher = find_launcher(ready.target, ready.features)
    if launcher is None:
        return None
    return run_self_test([*launcher.prefix, str(folder / "run"), "--self-test"], launcher.words)


def build_programs(compiler: str, config: Path, folder: Path) -> None:
    """Compile the runner, the RPC server and the library for Python into `folder`."""
    with resources.as_file(resources.files("sepify.compiling") / "runner") as sources:
        loader = [config, *(sources / name for name in _LOADER)]
        flags: list[str | Path] = ["-std=gnu11", "-O2", "-s", "-U_FORTIFY_SOURCE", *_DEFINED]
        flags += ["-I", sources]
        for include in headers():
            flags += ["-I", include]
        old_glibc = sources / "old_glibc.c"
        for name, files in _PROGRAMS.items():
            own = [sources / file for file in files]
            run_compiler(compiler, [*flags, *loader, *own, old_glibc, *_LINKED], folder / name)
        library = [*flags, "-shared", "-fPIC", *loader, *_LIBRARIES]
        run_compiler(compiler, library, folder / "libsepify_model.so")


def _config(ready: Prepared, outputs: Sequence[Tensor], tolerance: float) -> str:
    """What `bundle_model.h` declares for this network."""
    features = ", ".join([*(f'"{name}"' for name in ready.features), "0"])
    lines = [
        '#include "bundle_model.h"',
        f"static const char *const features[] = {{{features}}};",
        _values("inputs", ready.inputs),
        _values("outputs", outputs),
        "const SepifyBundle sepify_bundle = {",
        f'    .target = "{ready.target.name}",',
        "    .features = features,",
        f"    .input_count = {len(ready.inputs)},",
        f"    .output_count = {len(outputs)},",
        "    .inputs = inputs,",
        "    .outputs = outputs,",
        f"    .tolerance = {tolerance:g},",
        "};",
        "",
    ]
    return "\n".join(lines)


def _values(name: str, tensors: Sequence[Tensor]) -> str:
    items = []
    for tensor in tensors:
        dtype, axes = dtype_name(tensor), len(tensor.shape)
        if dtype not in ELEMENTS or axes > _MOST_AXES:
            raise CompileError(f"a bundle cannot hold {dtype} with {axes} axes")
        element = ELEMENTS[dtype]
        extents = ", ".join(map(str, tensor.shape)) or "1"
        size = tensor.numel() * tensor.element_size()
        items.append(
            f"    {{{element.dlpack_code}, {8 * element.bytes}, {axes}, {{{extents}}}, {size}}}"
        )
    return f"static const SepifyValue {name}[] = {{\n" + ",\n".join(items) + "\n};"
