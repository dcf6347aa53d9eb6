"""The wheel and the sdist hold what they should, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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


def test_the_sdist_leaves_the_symlink_out(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert "sepify/passes/separate.py" in names
    assert not [name for name in names if name.startswith("passes")]


def test_the_door_at_the_top_level_leads_to_the_passes():
    assert (ROOT / "passes").is_symlink()
    assert (ROOT / "passes").resolve() == (ROOT / "sepify" / "passes").resolve()
