"""From a model's file to a folder: what `sepify compile` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table
from rich.text import Text

from sepify.compiling.bundle import make_bundle
from sepify.compiling.dependencies import require_tvm
from sepify.compiling.device.boards import Farm
from sepify.compiling.old_folder import FACTS, METADATA, require_replaceable
from sepify.compiling.pipeline import compile
from sepify.compiling.targets import Target, find_target, read_target, targets
from sepify.errors import UsageError
from sepify.formats.input_note import InputRequest
from sepify.formats.load import load_model
from sepify.passes.dump import dumping
from sepify.storage import require_writable


@dataclass(frozen=True)
class CompilationRequest:
    """The options of `sepify compile`. Without `bundle`, what this machine can run is saved for
    `load_compiled`, and for any other target the runtime bundle is made."""

    model: str
    output: Path
    inputs: InputRequest = field(default_factory=InputRequest)
    target: str = "native"
    target_json: Path | None = None
    bundle: str | None = None
    name: str = "network"
    preprocessing: str | None = None
    tune: str | None = None
    database: Path | None = None
    farm: Farm | None = None
    replace: bool = False
    dump: Path | None = None  # a new folder for the graph between passes


def render_targets() -> Table:
    """The targets that there are, for a terminal."""
    table = Table.grid(padding=(0, 2))
    for preset in targets():
        table.add_row(preset.name, preset.summary)
        if preset.details:
            table.add_row("", Text(preset.details, style="dim"))
    return table


def compile_file(request: CompilationRequest, progress: Callable[[str, int, int], None]) -> str:
    """Compile and write; a summary for a person. Raises what `compile` and `make_bundle` do."""
    with dumping(request.dump):
        return _compile_file(request, progress)


def _compile_file(request: CompilationRequest, progress: Callable[[str, int, int], None]) -> str:
    target: str | Target = request.target
    if request.target_json is not None:
        if request.target != "native":
            raise UsageError("give --target or --target-json, not both")
        target = read_target(request.target_json)
    require_tvm()
    chosen = find_target(target)
    plain = request.bundle is None and request.farm is None and not chosen.is_foreign
    require_replaceable(request.output, chosen.name, METADATA if plain else FACTS, request.replace)
    require_writable(request.output.parent)
    loaded = load_model(request.model, request.inputs)
    if plain:
        compiled = compile(
            loaded.module,
            loaded.inputs,
            target,
            tune=request.tune,
            database=request.database,
            progress=progress,
        )
        compiled.save(request.output, replace=request.replace)
        return compiled.metadata.summary
    return make_bundle(
        loaded.module,
        loaded.inputs,
        target,
        request.output,
        kind=request.bundle or "runtime",
        name=request.name,
        preprocessing=request.preprocessing,
        tune=request.tune,
        database=request.database,
        farm=request.farm,
        replace=request.replace,
        progress=progress,
    ).summary
