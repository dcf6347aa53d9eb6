"""The examples, as a reader would run them, at a tiny size."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.filterwarnings("ignore::sepify.errors.SepifyWarning")
@pytest.mark.parametrize(
    ("script", "judged"),
    [("resnet", "top-1"), ("segmentation_unet", "dice"), ("super_resolution", "psnr")],
)
def test_an_example(
    script: str,
    judged: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [f"{script}.py", "--images", "160", "--epochs", "1", "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    # nothing is timed; the module by its name, since `sepify.measuring.compare` is the function
    module = importlib.import_module("sepify.measuring.compare")
    monkeypatch.setattr(module, "_threads", lambda threads: ())
    runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert judged in said
    assert "fewer MACs" in said
    (page,) = tmp_path.glob("*.html")
    assert judged in page.read_text("utf-8")
