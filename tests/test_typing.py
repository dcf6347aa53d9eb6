"""The typed public API, as a consumer's mypy sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

CONSUMER = """
from __future__ import annotations

import sepify
import torch
from torch import fx, nn

model: nn.Module = nn.Conv2d(3, 8, 3)
x = torch.zeros(1, 3, 8, 8)
svd = sepify.Solver(method="svd")
small: fx.GraphModule = sepify.convert(model, rank=2, keep=["stem"], budget=None, solver=svd)
plan: sepify.Plan = sepify.plan(model, x, rank=1)
report: sepify.Report = sepify.compare(model, small, x, timing=sepify.Timing(None))
macs: int = report.before.macs
report.save("report.html")
reveal_type(report.to_dict())
"""

MISTAKES = """
import sepify
import torch
from torch import nn

sepify.convert(nn.Conv2d(3, 8, 3), rank="two")
sepify.compare(nn.ReLU(), nn.ReLU(), torch.zeros(1), timing=sepify.Timing(target=3))
"""


@pytest.mark.slow
def test_a_consumer_is_checked_against_our_types(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text(CONSUMER)
    (tmp_path / "wrong.py").write_text(MISTAKES)
    options = ["--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache")]
    said, _, code = api.run([*options, str(tmp_path / "fine.py")])
    assert code == 0, said
    assert "dict[str, Any]" in said
    said, _, code = api.run([*options, str(tmp_path / "wrong.py")])
    assert code == 1
    assert said.count("[arg-type]") == 2, said
