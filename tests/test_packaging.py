"""The wheel and the sdist hold what they should, and nothing else."""

import importlib
import pkgutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sepify.passes

ROOT = Path(__file__).parents[1]
HELPERS = ("conditions", "fingerprint")  # of passes, that nobody looks for first


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_the_wheel_ships_the_demo_the_template_and_the_type_marker(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "sepify/py.typed",
        "sepify/demo/fashion-mnist.npz",
        "sepify/demo/resnet.pt",
        "sepify/demo/LICENSE.fashion-mnist",
        "sepify/report/page/report.html",
        "sepify/report/page/style.css",
        "sepify/report/page/report.md",
        "sepify/report/report-4.schema.json",
        "sepify/report/vendor/plot.min.js",
        "sepify/report/vendor/LICENSE.plot",
        "sepify/report/vendor/d3.min.js",
        "sepify/report/vendor/LICENSE.d3",
    } <= names
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "sepify").rglob("*.py")}
    assert sources <= names
    assert not [name for name in names if name.startswith(("passes", "tests", "benchmarks"))]


def test_the_sdist_leaves_the_door_out(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert "sepify/passes/separate.py" in names
    assert not [name for name in names if name.startswith("passes")]


def test_the_door_at_the_top_level_leads_to_the_passes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    door = importlib.import_module("passes")
    assert Path(door.__file__) == ROOT / "passes" / "__init__.py"
    assert door.pipelines is importlib.import_module("sepify.passes.pipelines")
    passes = set()
    for module in pkgutil.iter_modules(sepify.passes.__path__):
        assert f"\n    {module.name} " in door.__doc__ or module.name in HELPERS
        held = vars(importlib.import_module(f"sepify.passes.{module.name}"))
        passes |= {
            (name, kind)
            for name, kind in held.items()
            if isinstance(kind, type) and issubclass(kind, door.Pass)
        }
    assert len(passes) > 14
    for name, kind in passes:
        assert getattr(door, name) is kind
        assert name in door.__all__
