"""The wheel and the sdist in clean environments, without extras and with: `make test-install`.

Every Python from 3.10 to 3.13 that this machine has takes part, found on the PATH or among pyenv's.
Each environment is new, holds nothing of this checkout, and takes a few minutes and a torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.install

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
WANTED = os.environ.get("SEPIFY_TEST_PYTHONS", "").split() or VERSIONS
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
OUTSIDE = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(*command: object, cwd: Path, expect: int = 0) -> str:
    """What the command prints, run as a stranger to this checkout would."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=OUTSIDE, capture_output=True, text=True
    )
    assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def interpreter(version: str) -> str | None:
    """A Python of this version that runs (pyenv's shims may be there and refuse)."""
    if version == THIS:
        return sys.executable
    homes = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for candidate in (f"python{version}", *map(str, homes)):
        try:
            said = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        except OSError:
            continue
        if said.returncode == 0 and f"Python {version}." in said.stdout:
            return candidate
    return None


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="session", params=VERSIONS)
def bare(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The Python of a new environment that holds torch and nothing else."""
    version = request.param
    if version not in WANTED:
        pytest.skip(f"Python {version} is not among those asked for")
    found = interpreter(version)
    if found is None:
        pytest.skip(f"this machine has no Python {version}")
    folder = tmp_path_factory.mktemp(f"python{version}-")
    run(found, "-m", "venv", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    install(python, "torch==2.13.0")
    yield python
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def install(python: Path, *what: object) -> None:
    pinned = ROOT / "constraints.txt"
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", pinned)
    run(python, *pip, *what, cwd=python.parent)


def test_the_wheel_then_an_extra_then_the_sdist(bare: Path, dist: Path, tmp_path: Path) -> None:
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    sepify = bare.parent / "sepify"

    install(bare, wheel)
    where = run(bare, "-c", "import sepify; print(sepify.__file__)", cwd=tmp_path)
    assert "site-packages" in where
    network = Path(where.strip()).parent / "demo" / "resnet.pt"
    run(
        sepify, "convert", "--method", "svd", network, "--rank", "1", "-o", "small.pt", cwd=tmp_path
    )
    assert (tmp_path / "small.pt").stat().st_size < network.stat().st_size
    refused = run(sepify, "compile", "small.pt", "-o", "bundle", cwd=tmp_path, expect=1)
    assert "sepify[tvm]" in " ".join(refused.split())
    assert not (tmp_path / "bundle").exists()

    install(bare, f"{wheel}[tvm]")
    run(sepify, "compile", "small.pt", "-o", "bundle", cwd=tmp_path)
    run(bare, "-c", "import sepify; sepify.load_compiled('bundle')", cwd=tmp_path)

    run(bare, "-m", "pip", "uninstall", "--yes", "--quiet", "sepify", cwd=tmp_path)
    install(bare, "setuptools>=77")
    install(bare, "--no-build-isolation", sdist)
    assert "convert" in run(sepify, "--help", cwd=tmp_path)
