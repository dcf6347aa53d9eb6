"""sepify report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.options import (
    Calibration,
    Data,
    Device,
    DeviceTarget,
    Key,
    Metric,
    Preprocess,
    Secret,
    Shapes,
    Tracker,
    Types,
    board_request,
    data_request,
    input_request,
)
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar
from sepify.errors import UsageError
from sepify.formats.table import INPUTS

EXAMPLES = (
    "sepify report model.pt small.pt --data test.npz -o report.html -o report.md",
    "sepify report model.pt small.pt --input-shape 1,3,224,224 --target none",
    "sepify report model.pt small.pt --device 192.168.1.20:9090 --secret secret.txt "
    "--device-target raspberry-pi-4 -o report.html",
    "sepify report rank1.report.json rank2.report.json rank3.report.json -o all.html",
)


def report(
    models: Annotated[
        list[str] | None,
        typer.Argument(help=f"BEFORE AFTER (each {INPUTS}), or reports as .json to compare"),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", help=".html, .json, .md (for pull requests) or .txt; repeat"
        ),
    ] = None,
    data: Data = None,
    preprocess: Preprocess = None,
    metric: Metric = None,
    calibration: Calibration = None,
    uniform: Annotated[
        str | None,
        typer.Option(
            help="Ranks, such as 1,2,3, at which BEFORE is converted throughout, to stand beside "
            "AFTER on the frontier; needs --calibration"
        ),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="plan.json of the conversion")] = None,
    measurements: Annotated[
        Path | None, typer.Option(help="What sepify plan --measurements wrote: rank curves")
    ] = None,
    target: Annotated[str, typer.Option(help="TVM target, or 'none' to leave TVM out")] = "native",
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    secret: Secret = None,
    device_target: DeviceTarget = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a report and stop")
    ] = False,
    input_shape: Shapes = None,
    dtype: Types = None,
) -> Outcome:
    """Compare two models: MACs, FLOPs, parameters, size, latency, accuracy, fidelity; or several
    reports."""
    asked = input_request(input_shape, dtype)
    given, outputs = models or [], tuple(output or ())
    saved = bool(given) and all(name == "-" or name.endswith(".json") for name in given)
    if not (schema or saved or len(given) == 2):
        raise UsageError("report needs BEFORE and AFTER, or two or more reports saved as .json")
    from sepify.jobs.report import ReportRequest, compare_files, parse_ranks, report_files
    from sepify.report.model import report_schema

    if schema:
        return Outcome(None, report_schema())
    if saved:
        comparison = compare_files([Path(name) for name in given], outputs)
        return Outcome(comparison, comparison.to_dict(), outputs)
    before, after = given
    request = ReportRequest(
        before,
        after,
        inputs=asked,
        plan=plan,
        measurements=measurements,
        uniform=parse_ranks(uniform),
        target=None if target == "none" else target,
        given=data_request(data, calibration, preprocess, metric),
        outputs=outputs,
        farm=board_request(device, tracker, key, secret),
        device_target=device_target,
    )
    with progress_bar() as progress:
        result = report_files(request, progress)
    return Outcome(result, result.to_dict(), outputs)
