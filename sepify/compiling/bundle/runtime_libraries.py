"""libtvm_runtime and libtvm_ffi for a target, out of the packages that pip has for its platform."""

from __future__ import annotations

import os
import subprocess
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

from sepify.compiling.targets import Target, host_architecture
from sepify.errors import CompileError, DependencyError
from sepify.process.starting import python_command, python_environment
from sepify.storage import atomic_path, write_bytes

# package -> the library in it
LIBRARIES = {
    "apache-tvm": "tvm/lib/libtvm_runtime.so",
    "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so",
}
_SECONDS = 900


def runtime_libraries(target: Target) -> dict[str, Path]:
    """File name -> path of the two libraries.

    Those of this machine's processor are in the installed packages. Others are downloaded once, by
    pip, about 100 MB, and kept in the user's cache folder. Raises CompileError where there is no
    package for the target, DependencyError where pip cannot fetch it.
    """
    if not target.wheels:
        raise CompileError(
            f"TVM has no runtime packages for {target.name}: use --bundle c, which needs none"
        )
    if not target.is_foreign and target.architecture == host_architecture():
        return _installed()
    folder = _cache() / f"runtime-{target.architecture}-tvm{version('apache-tvm')}"
    files = {Path(name).name: folder / Path(name).name for name in LIBRARIES.values()}
    if not all(path.is_file() for path in files.values()):
        _download(target, folder)
    return files


def _installed() -> dict[str, Path]:
    import tvm
    import tvm_ffi

    roots = {"tvm": Path(tvm.__file__).parent, "tvm_ffi": Path(tvm_ffi.__file__).parent}
    found = {}
    for name in LIBRARIES.values():
        package, _, inside = name.partition("/")
        found[Path(name).name] = roots[package] / inside
    return found


def headers() -> tuple[Path, ...]:
    """Folders of TVM FFI's headers, which are the same for every target."""
    import tvm_ffi

    return (Path(tvm_ffi.__file__).parent / "include",)


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "sepify"


def _download(target: Target, folder: Path) -> None:
    """Fetch both packages, keep the libraries alone."""
    wanted = [f"{package}=={version(package)}" for package in LIBRARIES]
    with atomic_path(folder) as temporary, tempfile.TemporaryDirectory(prefix="sepify-") as place:
        temporary.mkdir()
        command = [*python_command("pip"), "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:"]
        command += ["--platform", target.wheels, "--dest", place, *wanted]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, env=python_environment()
            )
        except subprocess.TimeoutExpired as error:
            raise DependencyError(f"pip did not fetch {wanted[0]} in {_SECONDS} s") from error
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            cause = (lines or ["pip failed"])[0].removeprefix("ERROR: ")
            raise DependencyError(
                f"TVM's runtime for {target.name} could not be downloaded ({cause}); go online "
                "once: it is kept after that (or --bundle c, which needs none)"
            )
        for package, inside in LIBRARIES.items():
            pattern = f"{package.replace('-', '_')}-*.whl"
            (wheel,) = Path(place).glob(pattern)
            with zipfile.ZipFile(wheel) as archive:
                write_bytes(temporary / Path(inside).name, archive.read(inside))
