"""Files in, files out: what `sepify quantize` does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from sepify.errors import UsageError
from sepify.formats.input_note import InputRequest
from sepify.formats.load import load_model
from sepify.formats.save import save_model
from sepify.formats.table import output_format
from sepify.graph.grids import WeightBits
from sepify.jobs.data_options import DataRequest, gather_data
from sepify.judging.number_words import interval, percent
from sepify.passes.dump import dumping
from sepify.process.progress import Progress
from sepify.quantising.quantisation import Quantisation
from sepify.quantising.quantize import quantize
from sepify.quantising.recipe import Recipe
from sepify.storage import require_writable, written_together

WRITTEN = ".pt2"  # torch.export: the form that sepify reads again
SHOWN = 12  # layers in float32 that the summary names


@dataclass(frozen=True)
class QuantisationRequest:
    """The options of `sepify quantize`."""

    model: str
    output: Path
    inputs: InputRequest | None
    given: DataRequest
    weights: int = 8
    keep: tuple[str, ...] = ()
    dump: Path | None = None  # a new folder for the graph between passes


@dataclass(frozen=True)
class QuantisationResult:
    """What to tell the user, the record of what was quantised, and the file written."""

    summary: str
    record: Quantisation
    written: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """For machines, in plain JSON types."""
        record = self.record
        return {
            "layers": [asdict(layer) for layer in record.layers],
            "quantised": len(record.quantised),
            "activations": record.values,
            "others": dict(record.others),
            "fidelity": None if record.fidelity is None else asdict(record.fidelity),
            "notes": list(record.notes),
            "written": [str(path) for path in self.written],
        }


def quantize_file(request: QuantisationRequest, progress: Progress) -> QuantisationResult:
    """Quantise a model file and write OUTPUT in the form that its suffix names, or nothing.
    Everything that can be refused is refused before the work begins."""
    output_format(request.output)
    if request.output.suffix != WRITTEN:
        raise UsageError(
            f"a quantised network is written as {WRITTEN}, not as '{request.output.suffix}'"
        )
    recipe = Recipe(cast(WeightBits, request.weights))
    require_writable(request.output.parent)
    model = load_model(request.model, request.inputs)
    images = gather_data(request.given, model).calibration
    assert images is not None
    with dumping(request.dump):
        made = quantize(
            model.module, calibration=images, recipe=recipe, keep=request.keep, progress=progress
        )
    record: Quantisation = made.meta["sepify"]
    with written_together() as stage:
        how = save_model(made, stage(request.output), model.inputs)
    before = None if model.size is None else model.size
    sizes = f"{request.output.stat().st_size:,} bytes"
    if before is not None and Path(request.model).suffix == request.output.suffix:
        sizes = f"{before:,} -> {sizes}"
    summary = "\n".join([*describe(record), f"{how}; {sizes}"])
    return QuantisationResult(summary, record, (request.output,))


def describe(record: Quantisation) -> list[str]:
    """What was quantised, what stayed in float32 and why, and how near the answers are."""
    lines = [record.summary]
    lines += [f"  float32: {layer.name}: {layer.reason}" for layer in record.floating[:SHOWN]]
    if len(record.floating) > SHOWN:
        lines.append(f"  and {len(record.floating) - SHOWN} more: --json names them all")
    if record.others:
        counted = ", ".join(f"{name} {count}" for name, count in record.others.items())
        lines.append(f"in float32 between layers, before they are rounded: {counted}")
    found = record.fidelity
    if found is None:
        return [*lines, f"fidelity to the given network: unknown ({record.unjudged})"]
    said = f"mean cosine {found.cosine:.4f}"
    if found.agreement is not None:
        said = f"same top-1 answer {percent(found.agreement.value)}"
        said += f" (95 %: {interval(found.agreement)})"
    if found.sqnr is not None:
        said += f", SQNR {found.sqnr:.1f} dB"
    return [*lines, f"fidelity to the given network on {found.inputs} held-out images: {said}"]
