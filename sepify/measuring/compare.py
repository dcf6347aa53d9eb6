"""compare(): two networks in, a report out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.jit import ScriptModule

from sepify.errors import CaptureError, InputError, UsageError
from sepify.graph.copying import copy_module
from sepify.graph.modes import evaluating
from sepify.graph.running import AFTER, BEFORE, Inputs, answer, as_inputs
from sepify.judging.doubts import doubts, unclaimed
from sepify.judging.layer_errors import layer_errors
from sepify.measuring.cost import measure_cost, stored_size
from sepify.measuring.data import Labelled
from sepify.measuring.judging import PERHAPS_FITTED, Evidence, judge, judge_variants
from sepify.measuring.layers import pair_layers, plan_document
from sepify.measuring.notes import board_notes, latency_notes, shape_note
from sepify.measuring.options import Alternatives, Judging, Provenance, Timing
from sepify.measuring.rank_curves import rank_curves
from sepify.planning.candidates import Measurements
from sepify.planning.frontier import trace_frontier
from sepify.plans.plan import Plan
from sepify.plans.resolution import inputs_for, reduced_first
from sepify.process.machine import installed_versions, this_machine, usable_cpus
from sepify.process.progress import Progress, guarded, silent
from sepify.process.renamed import renamed
from sepify.process.state import keeps_process_state
from sepify.report.model import Origin, Prospect, Totals
from sepify.report.report import Report
from sepify.timing.board import require_board, time_on_board
from sepify.timing.race import Contender, Latency, Skipped, Which, race, summarise
from sepify.timing.runtimes import Compiled, Runner, gather, onnx_runner, torch_runner, tvm_runner

if TYPE_CHECKING:
    pass

Models = dict[Which, nn.Module]
Given = dict[Which, Inputs]
FITTED_NOTE = f"Fidelity is measured on images {PERHAPS_FITTED}: on new ones it may be less."
NO_TVM = "left out on request (target None)"


@renamed(
    **{
        name: f"judging=Judging({name}=...)"
        for name in ("unlabelled", "metric", "names", "unjudged")
    },
    **{
        name: f"timing=Timing({name}=...)"
        for name in ("target", "threads", "compiled", "seconds", "seed", "farm", "device_target")
    },
    **{name: f"alternatives=Alternatives({name}=...)" for name in ("beside", "measurements")},
    **{name: f"provenance=Provenance({name}=...)" for name in ("plan", "sizes", "origin")},
)
@keeps_process_state
def compare(
    before: nn.Module,
    after: nn.Module,
    x: Tensor | Inputs,
    *,
    data: Labelled | None = None,
    judging: Judging | None = None,
    timing: Timing | None = None,
    alternatives: Alternatives | None = None,
    provenance: Provenance | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure a network before and after its conversion, side by side. Neither is changed.

    Args:
        before, after: an nn.Module, GraphModule or TorchScript module each, on the CPU.
        x: example inputs, batch first: what is timed, and what MACs are counted on; where the plan
            has a resolution, `after` gets them, and the data, reduced to it.
        data: labelled images for top-1: (images, labels) or an iterable of such batches.
        judging: unlabelled inputs, a metric of the user's own, the names of the classes.
        timing: targets, threads, seconds, a board.
        alternatives: other conversions, and what planning measured.
        provenance: the plan, the files' sizes, how to make the report again.
        progress: called as progress(what, done, total), total 0 where it is unknown.

    Returns:
        The report. MACs are multiply-adds for one image; FLOPs are twice that.

    Raises:
        InputError: inputs or data do not fit the networks, or an output is NaN.
        UsageError: impossible numbers of threads.
        DeviceError: the board is lost.
    """
    judging, timing = judging or Judging(), timing or Timing()
    alternatives, provenance = alternatives or Alternatives(), provenance or Provenance()
    plan, sizes, measurements = provenance.plan, provenance.sizes, alternatives.measurements
    inputs = as_inputs(x)
    name = _name(before)
    before, after = copy_module(before), copy_module(after)  # which every run may change
    beside = {label: copy_module(network) for label, network in alternatives.beside.items()}
    require_board(timing.farm, timing.device_target)
    counts = _threads(timing.threads)
    machine = this_machine()
    if plan is None:
        plan = getattr((getattr(after, "meta", None) or {}).get("sepify"), "plan", None)
    with evaluating(before, after):
        given: Given = {"before": inputs, "after": inputs_for(plan, inputs)}
        _require_comparable(before, after, given)
        notes = list(shape_note(plan))
        models: Models = {
            "before": _graph(before, given["before"], BEFORE, notes),
            "after": _graph(after, given["after"], AFTER, notes),
        }
        progress = guarded(progress)
        _tell(progress, "counting MACs")
        costs = {which: measure_cost(model, given[which]) for which, model in models.items()}
        kinds = ("file", "file")
        if sizes is None:
            stored = stored_size(before, inputs), stored_size(after, given["after"])
            sizes, kinds = (stored[0][0], stored[1][0]), (stored[0][1], stored[1][1])

        evidence = Evidence(inputs, data, judging)
        scores, beware = judge(before, reduced_first(after, plan), evidence, progress)
        notes += beware
        separated = _alike(plan)
        moved = layer_errors(models["before"], models["after"], evidence.readable_twice, separated)
        _tell(progress, "decomposing the kernels")
        curves = rank_curves(models["before"], inputs, measurements)
        variants = judge_variants(before, beside, evidence, progress)

        latency = None
        if counts:
            _require_cpu(before, after, inputs)
            latency = _latency(models, given, timing, counts, progress)
            fell = costs["after"].macs < costs["before"].macs
            notes += latency_notes(latency, machine, fell)
        board = None
        farm, board_target = timing.farm, timing.device_target
        if farm is not None and board_target is not None:
            _require_cpu(before, after, inputs)
            board = time_on_board(
                models, given, farm, board_target, timing.seed, progress or silent
            )
            notes += board_notes(board, costs["after"].macs < costs["before"].macs)

    judged_on = evidence.judged_on(plan)
    if judged_on == PERHAPS_FITTED:
        notes.insert(0, FITTED_NOTE)
    doubtful = doubts(None if evidence.bare else scores.fidelity, plan, evidence.kind(plan))
    if scores.fidelity is None:
        doubtful = (unclaimed(judging.unjudged), *doubtful)

    totals = [
        Totals(cost.macs, cost.params, size, kind)
        for cost, size, kind in zip(costs.values(), sizes, kinds, strict=True)
    ]
    return Report(
        network=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine,
        versions=installed_versions(),
        seed=timing.seed,
        inputs=tuple(tuple(tensor.shape) for tensor in inputs),
        method=plan.method if plan else None,
        before=totals[0],
        after=totals[1],
        layers=pair_layers(costs["before"], costs["after"], plan, moved, curves),
        latency=latency,
        accuracy=scores.accuracy,
        fidelity=scores.fidelity,
        notes=tuple(notes),
        top5=scores.top5,
        metrics=(scores.metric,) if scores.metric else (),
        changes=scores.changes,
        variants=variants,
        origin=provenance.origin or Origin(plan=plan_document(plan)),
        board=board,
        warnings=doubtful,
        judged_on=judged_on,
        **_prospects(measurements),
    )


def _prospects(measurements: Measurements | None) -> dict[str, Any]:
    if measurements is None:
        return {}
    frontier = trace_frontier(measurements, "macs")
    return {
        "prospects": tuple(Prospect(p.cost, p.damage) for p in frontier.points),
        "prospect_unit": frontier.loss,
    }


def _alike(plan: Plan | None) -> list[str]:
    """The separated layers whose outputs are to be those of the original's: in style mobilenet
    BatchNorm has their bias, and at another resolution their maps have another size."""
    if plan is None or plan.style != "linear" or plan.resolution is not None:
        return []
    return [decision.name for decision in plan.rewritten]


def _latency(
    models: Models,
    given: Given,
    timing: Timing,
    threads: Sequence[int],
    progress: Progress | None,
) -> Latency:
    target, compiled, seed = timing.target, timing.compiled, timing.seed
    contenders: list[Contender] = []
    skipped: list[Skipped] = []

    def enter(runtime: str, builders: dict[Which, Callable[[], Runner]]) -> None:
        _tell(progress, f"preparing {runtime}")
        found, missed = gather(runtime, builders, models, given, threads)
        contenders.extend(found)
        skipped.extend(missed)

    with tempfile.TemporaryDirectory() as folder:

        def onnx(which: Which) -> Runner:
            place = Path(folder) / which
            place.mkdir()
            return onnx_runner(models[which], given[which], place)

        def tvm(which: Which) -> Runner:
            if compiled is not None:
                return tvm_runner(compiled[0 if which == "before" else 1])
            return tvm_runner(_compile(models[which], given[which], target or "", progress))

        sides: tuple[Which, Which] = ("before", "after")
        enter("torch", {side: partial(torch_runner, models[side]) for side in sides})
        enter("onnxruntime", {side: partial(onnx, side) for side in sides})
        if target is None and compiled is None:
            skipped.append(Skipped("TVM", NO_TVM))
        else:
            enter("TVM", {side: partial(tvm, side) for side in sides})
        result = race(contenders, seed=seed, seconds=timing.seconds, progress=progress)
    return summarise(contenders, result, skipped, len(given["before"][0]), seed)


def _compile(model: nn.Module, inputs: Inputs, target: str, progress: Progress | None) -> Compiled:
    from sepify.compiling import compile as compile_model  # lazily: it loads TVM

    return cast(Compiled, compile_model(model, inputs, target, progress=progress))


def _graph(model: nn.Module, inputs: Inputs, who: str, notes: list[str]) -> nn.Module:
    """TorchScript as a graph module, whose layers can be told apart and which every runtime takes;
    as it is where it cannot be captured (said in `notes`), and any other module as it is."""
    if not isinstance(model, ScriptModule):
        return model
    from sepify.capture import capture

    try:
        return capture(model, inputs).graph_module
    except CaptureError as error:  # its totals can still be counted and timed
        notes.append(f"The layers of {who} could not be told apart: {error}.")
        return model


def _threads(threads: Sequence[int] | None) -> tuple[int, ...]:
    if threads is None:
        return (1, 2) if usable_cpus() >= 2 else (1,)
    for count in threads:
        if not isinstance(count, int) or count < 1:
            raise UsageError(f"threads must be whole numbers from 1, not {count!r}")
    return tuple(dict.fromkeys(threads))


def _require_comparable(before: nn.Module, after: nn.Module, given: Given) -> None:
    """Raise InputError unless both run on what they are given and answer in the same shapes."""
    old, new = answer(before, given["before"], BEFORE), answer(after, given["after"], AFTER)
    shapes = [tuple(y.shape) for y in old], [tuple(y.shape) for y in new]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{BEFORE} answers in shape {shapes[0]}, {AFTER} in {shapes[1]}: not the same task"
        )


def _require_cpu(before: nn.Module, after: nn.Module, inputs: Inputs) -> None:
    tensors = [*inputs, *before.parameters(), *after.parameters()]
    elsewhere = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    if elsewhere is not None:
        raise InputError(
            f"latencies are measured on the CPU, but a tensor is on {elsewhere}: move both "
            "networks and the inputs there, or pass threads=()"
        )


def _name(model: nn.Module) -> str:
    if isinstance(model, ScriptModule):
        return str(model.original_name)
    return type(model).__name__


def _tell(progress: Progress | None, what: str) -> None:
    if progress is not None:
        progress(what, 0, 0)
