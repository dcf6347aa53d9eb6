"""The bundle without TVM: a C header, generated C, kernels as object files, weights, a CMake file,
and an example that is a self-test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from sepify.compiling.bundle.c_source import embedded, header, source
from sepify.compiling.bundle.program import Program
from sepify.compiling.bundle.self_test import SelfTest, Written, run_self_test
from sepify.compiling.bundle.toolchain import find_compiler, find_launcher
from sepify.compiling.c_compiler import run_compiler
from sepify.compiling.kernels.elements import ELEMENTS, FLOAT32
from sepify.compiling.prepare import Prepared
from sepify.errors import UsageError
from sepify.storage import temporary_folder, write_bytes, write_text

# the same files in every bundle: two networks of one application share them
SHARED = (
    "sepify_cpu.h",
    "sepify_cpu.c",
    "sepify_program.h",
    "sepify_program.c",
    "sepify_threads.h",
    "sepify_threads.c",
)


def require_identifier(name: str) -> None:
    """Raise UsageError unless `name` can start the names of C functions."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name):
        raise UsageError(
            f"--name {name!r}: give a C identifier in small letters, such as {_suggestion(name)}"
        )


def _suggestion(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:30]
    return words if words[:1].isalpha() else "network"


def write_c(ready: Prepared, folder: Path, name: str, tolerance: float) -> Written:
    """Write everything but `model.json` and the checksums into `folder`, which exists.

    Raises CompileError for a network that cannot do without TVM's runtime.
    """
    from sepify.compiling.bundle.ahead_of_time import ahead_of_time

    program, objects = ahead_of_time(ready.module, ready.tvm_target, name)
    for shared in SHARED:
        copy_source(shared, folder / shared)
    write_text(folder / f"{name}.h", header(name, program, ready.target.name))
    write_text(folder / f"{name}.c", source(name, program, ready.features))
    kernels = []
    for index, content in enumerate(objects):
        kernels.append(f"{name}_kernels{index}.o")
        write_bytes(folder / kernels[-1], content)
    write_bytes(folder / f"{name}_weights.bin", program.weights or bytes(64))
    weights = [(f"{name}_weights", f"{name}_weights.bin")]
    write_text(folder / f"{name}_weights.S", embedded(weights))

    stored = []
    for kind, tensors in (("input", ready.inputs), ("output", ready.expected)):
        for index, tensor in enumerate(tensors):
            file = f"{kind}{index}.bin"
            write_bytes(folder / file, tensor.detach().contiguous().numpy().tobytes())
            stored.append((f"{name}_stored_{kind}{index}", file))
    write_text(folder / "example_data.S", embedded(stored))
    write_text(folder / "example.h", _example(name, program, tolerance))
    copy_source("main.c", folder / "main.c")
    write_text(folder / "CMakeLists.txt", _cmake(name, kernels))
    return Written(
        {
            "weights": len(program.weights),
            "arena": program.arena + program.workspace,
            "peak": program.peak + program.workspace,
        }
    )


def check_c(ready: Prepared, folder: Path) -> SelfTest | None:
    """Compile the example and run it, where there is a compiler and something to run it on."""
    compiler = find_compiler(ready.target)
    launcher = find_launcher(ready.target, ready.features)
    if compiler is None or launcher is None:
        return None
    with temporary_folder() as place:
        program = place / "example"
        build_example(compiler, folder, program)
        return run_self_test([*launcher.prefix, str(program), "--self-test"], launcher.words)


def build_example(compiler: str, folder: Path, program: Path, threads: int = 1) -> None:
    """Link the example of a C bundle, statically, without CMake. Raises CompileError."""
    sources = [path for suffix in ("*.c", "*.S", "*.o") for path in sorted(folder.glob(suffix))]
    several = ["-DSEPIFY_THREADS", f"-DEXAMPLE_THREADS={threads}", "-pthread"]
    flags: list[str | Path] = ["-std=gnu11", "-O2", "-static", "-s", "-I", folder]
    flags += several if threads > 1 else []
    run_compiler(compiler, [*flags, *sources, "-lm"], program)


def copy_source(name: str, to: Path) -> None:
    """Copy a C file that comes with the package."""
    write_bytes(to, (resources.files("sepify.compiling") / "runner" / name).read_bytes())


def _example(name: str, program: Program, tolerance: float) -> str:
    upper = name.upper()
    ins, outs = range(len(program.inputs)), range(len(program.outputs))
    in_types = [ELEMENTS[program.tensors[i].dtype].c_type for i in program.inputs]
    out_types = [ELEMENTS[program.tensors[i].dtype].c_type for i in program.outputs]
    into = ", ".join(f"output{i}" for i in outs)
    run = ", ".join([*(f"input{i}" for i in ins), into])
    test = ", ".join([*(f"(const {in_types[i]} *){name}_stored_input{i}" for i in ins), into])
    floats = [int(program.tensors[number].dtype == FLOAT32.name) for number in program.outputs]
    lines = [
        "/* Generated by sepify: what main.c calls, and the buffers that it calls it with. */",
        f'#include "{name}.h"',
        "#ifndef EXAMPLE_THREADS",
        "#define EXAMPLE_THREADS 1",
        "#endif",
        f"#define EXAMPLE_ARENA_BYTES {upper}_ARENA_BYTES",
        f"#define EXAMPLE_INIT {name}_init",
        f"#define EXAMPLE_MESSAGE {name}_message",
        f"#define EXAMPLE_RUN() {name}_run({run})",
        f"#define EXAMPLE_RUN_STORED() {name}_run({test})",
        f"#define EXAMPLE_INPUTS {len(ins)}",
        f"#define EXAMPLE_OUTPUTS {len(outs)}",
        f"#define EXAMPLE_TOLERANCE {tolerance:g}",
    ]
    for kind, kinds in (("input", in_types), ("output", out_types)):
        for index, c in enumerate(kinds):
            lines += [
                f"extern const unsigned char {name}_stored_{kind}{index}[];",
                f"static {c} {kind}{index}[{upper}_{kind.upper()}{index}_BYTES / sizeof({c})];",
            ]
        each = range(len(kinds))
        sizes = ", ".join(f"{upper}_{kind.upper()}{i}_BYTES" for i in each)
        names = ", ".join(f"{kind}{i}" for i in each)
        lines += [
            f"static void *const example_{kind}s[] = {{{names}}};",
            f"static const size_t example_{kind}_bytes[] = {{{sizes}}};",
        ]
    wanted = ", ".join(f"{name}_stored_output{i}" for i in outs)
    lines += [
        f"static const unsigned char *const example_wanted[] = {{{wanted}}};",
        f"static const int example_output_is_float[] = {{{', '.join(map(str, floats))}}};",
        "",
    ]
    return "\n".join(lines)


def _cmake(name: str, kernels: Sequence[str]) -> str:
    return f"""cmake_minimum_required(VERSION 3.13)
project({name} C ASM)

# cmake -DTHREADS=4 for a pool of threads; 1 needs no pthreads
set(THREADS 1 CACHE STRING "threads that {name}_init may be asked for")

# once in an application, however many networks it has
if(NOT TARGET sepify_runtime)
  add_library(sepify_runtime STATIC sepify_cpu.c sepify_program.c sepify_threads.c)
  target_include_directories(sepify_runtime PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
  if(THREADS GREATER 1)
    find_package(Threads REQUIRED)
    target_compile_definitions(sepify_runtime PUBLIC SEPIFY_THREADS)
    target_link_libraries(sepify_runtime PUBLIC Threads::Threads)
  endif()
endif()

set({name}_kernels {" ".join(kernels)})
set_source_files_properties(${{{name}_kernels}} PROPERTIES EXTERNAL_OBJECT TRUE)
add_library({name} STATIC {name}.c {name}_weights.S ${{{name}_kernels}})
target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
target_link_libraries({name} PUBLIC sepify_runtime m)

# what was copied is what was made
file(STRINGS ${{CMAKE_CURRENT_SOURCE_DIR}}/SHA256SUMS sums)
foreach(line IN LISTS sums)
  string(SUBSTRING "${{line}}" 0 64 wanted)
  string(SUBSTRING "${{line}}" 66 -1 file)
  file(SHA256 ${{CMAKE_CURRENT_SOURCE_DIR}}/${{file}} have)
  if(NOT have STREQUAL wanted)
    message(FATAL_ERROR "${{file}} is damaged: its checksum differs; copy the bundle again")
  endif()
endforeach()

add_executable({name}_example main.c example_data.S)
target_compile_definitions({name}_example PRIVATE EXAMPLE_THREADS=${{THREADS}})
target_include_directories({name}_example PRIVATE ${{CMAKE_CURRENT_SOURCE_DIR}})
target_link_libraries({name}_example PRIVATE {name})

enable_testing()
add_test(NAME {name}_self_test COMMAND {name}_example --self-test)
"""
