"""What a terminal shows."""

from __future__ import annotations

import io
import re
from dataclasses import replace

from report.samples import (
    EVIL,
    each_variant,
    layer,
    report,
    spread,
)
from rich.console import Console

from sepify.measuring import Report
from sepify.report import figures
from sepify.timing.race import LatencyRow, Ratio


@each_variant
def test_text_fits_80_columns(made: Report) -> None:
    text = str(made)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("Net<b> after conversion needs")
    terminal = Console(width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    terminal.print(made)
    coloured = terminal.file.getvalue()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured.splitlines()]
    assert "\n".join(plain).strip("\n") == text


def test_text_says_what_the_report_says() -> None:
    text = str(report())
    squeezed = "".join(text.split())
    for part in (
        "5.00\N{MULTIPLICATION SIGN} fewer",
        "20.0 M",
        "40.0 M",
        "7.00\N{MULTIPLICATION SIGN} fewer",
        "12.0 ms",
        "onnxruntime was not timed: onnx not installed",
        "lost 210, gained 114",
        "92.76 %",
        "kept, first layer & <last>: stem",
        "dw-pw, rank 2",
        "Beware of",
    ):
        assert "".join(part.split()) in squeezed
    alone = report(layers=(layer(EVIL, (12_000_000, 1_500_000)),))
    first_column = [line.split(" ")[0] for line in str(alone).splitlines()]
    assert EVIL in "".join(first_column)  # folded over lines, and not read as markup


def test_headline_tells_slower_from_faster() -> None:
    assert "5.00\N{MULTIPLICATION SIGN} fewer MACs" in figures.headline(report())
    assert (
        "12.0\N{MULTIPLICATION SIGN} as fast as the fastest runtime on the original"
        in figures.headline(report())
    )
    rows = (LatencyRow("torch", 1, spread(0.001), spread(0.002), Ratio(0.5, 0.4, 0.6), None),)
    latency = report().latency
    assert latency is not None
    slower = report(latency=replace(latency, rows=rows), after=report().before)
    assert figures.headline(slower).startswith(
        "Net<b> after conversion needs as many MACs as before"
    )
    assert "takes 2.00\N{MULTIPLICATION SIGN} as long as the fastest runtime" in figures.headline(
        slower
    )
