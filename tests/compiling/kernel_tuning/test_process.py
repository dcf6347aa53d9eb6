"""What a process that is killed leaves behind."""

from __future__ import annotations

import sys
from pathlib import Path

from sepify.compiling.kernel_tuning.process import Process

WRITES = """
import json, sys, tempfile
folder = tempfile.mkdtemp()
for line in sys.stdin:
    open(folder + "/large", "w").write("x")
    print(json.dumps({"ready": True, "folder": folder}), flush=True)
"""


def test_its_temporary_files_go_with_it():
    process = Process([sys.executable, "-c", WRITES], {})
    first = Path(process.ask({}, {"": 60.0})["folder"])
    assert (first / "large").is_file()
    process.close()
    assert not first.exists()
    assert not first.parent.exists()
    second = Path(process.ask({}, {"": 60.0})["folder"])
    assert second.exists()
    process.end()
    assert "error" in process.ask({}, {"": 60.0})
    assert not second.exists()
