"""quantize(): any network in, one that computes with 8-bit integers out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import fx

from sepify.capture import Model
from sepify.capture.network import Network, make_network, require_images
from sepify.errors import CalibrationWarning, ConversionError, InputError, UsageError
from sepify.graph.batches import Batch, Calibration, image_count
from sepify.graph.grids import WeightBits, quantising_nodes
from sepify.graph.running import AFTER, BEFORE, answer
from sepify.graph.sound import require_finite_result, verify_conversion
from sepify.judging.fidelity import Fidelity, fidelity
from sepify.judging.heldout import Split, hold_out
from sepify.passes.pipelines import inference_copy, quantisation
from sepify.passes.runner import run_passes
from sepify.plans.precision import Precision
from sepify.process.progress import Progress, guarded
from sepify.process.state import keeps_process_state
from sepify.quantising.quantisation import LayerPrecision, Quantisation
from sepify.quantising.recipe import Recipe
from sepify.quantising.sites import Selection, Sites, find_sites, float_shapes
from sepify.quantising.walk import Solved, quantise_in_step, values_of

FEWEST, FEW = 8, 64  # images: with fewer it is refused, or warned of
MEMORY = 2 * 2**30


@keeps_process_state
def quantize(
    model: Model,
    *,
    calibration: Calibration,
    weights: WeightBits = 8,
    keep: Selection = (),
    recipe: Recipe | None = None,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """Put weights and activations of `model` on integer grids, without labels or training.

    Every activation gets a scale for each channel, every weight one for each output channel. Layer
    by layer, weights are solved anew behind what is quantised already, towards the maps of `model`
    itself, and rounded with error compensation. The network may be dense or converted.

    Args:
        model: an nn.Module, fx.GraphModule, loaded TorchScript module or ExportedProgram in
            float32; it is never changed.
        calibration: unlabelled inputs, a few hundred: a tensor `(n, C, H, W)` or a loader.
        weights: their bits, 8 or 4; at 4 the depthwise and other grouped layers, the first and the
            last stay at 8. Activations have 8.
        keep: layers to leave in float32: names or shell patterns such as "layer1.*", or a function
            of a module and its name that answers True for them.
        recipe: the single steps, of which some can be left out; says the bits of weights as well.
        progress: called as progress(what, done, total) as the work goes on.

    Returns:
        A GraphModule in inference mode whose quantise and dequantise nodes are
        `torch.ops.quantized_decomposed`'s, BatchNorm folded, with a `Quantisation` in
        `.meta["sepify"]`: what is quantised, what is not and why, and the fidelity to `model`.

    Warns:
        CalibrationWarning: the images are few, or leave channels without a single value.

    Raises:
        SepifyError: CaptureError, InputError (images too few, NaN), UsageError (the network is
            quantised already or not in float32), PlanError (`keep` matches no layer), or
            ConversionError.
    """
    recipe = recipe or Recipe(weights)
    network = make_network(model, calibration=calibration)
    made = quantise_network(network, recipe, keep, guarded(progress))
    for note in made.meta["sepify"].notes:
        warnings.warn(note, CalibrationWarning, stacklevel=4)  # past the decorator
    return made


def quantise_network(
    network: Network,
    recipe: Recipe,
    keep: Selection = (),
    progress: Progress | None = None,
    split: Split | None = None,
    eight: Sequence[str] = (),
) -> fx.GraphModule:
    """The same for a network that was captured, with its images; `split` where these were divided
    already. The layers at and below the paths in `eight` take no weights of fewer than 8 bits."""
    _require_sound(network)
    assert network.batches is not None
    assert network.inputs is not None
    split = split or hold_out(network.batches)
    graph_module = inference_copy(network.graph_module, untouched=())
    values = values_of(graph_module, tuple(t[:2] for t in split.fit[0]))
    sites = find_sites(graph_module, float_shapes(values), recipe.weights, keep, eight)
    solved = quantise_in_step(graph_module, sites, split.fit, recipe, MEMORY, progress)
    integers = {name: fitted.weights for name, fitted in solved.layers.items()}
    passes = quantisation(solved.grids, integers)
    quantised = run_passes(network.graph_module, passes).graph_module
    require_finite_result(quantised)
    verify_conversion(network.graph_module, quantised, network.inputs)
    quantised.meta["sepify"] = _record(graph_module, quantised, sites, solved, split)
    return quantised


def _require_sound(network: Network) -> None:
    """Raise UsageError or InputError for what cannot be quantised, or not with these images."""
    if next(quantising_nodes(network.graph_module.graph), None) is not None:
        raise UsageError("the network is quantised already: give the float32 one")
    for name, tensor in network.graph_module.named_parameters():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(f"'{name}' is {kind}: quantising starts from float32, model.float()")
    images = 0 if network.batches is None else image_count(network.batches)
    if images < FEWEST:
        raise InputError(
            f"{images} calibration image(s) are too few to quantise by: give {FEWEST} at the "
            "least, better a few hundred"
        )
    require_images(network)
    network.captured.require_no_state("quantising runs images in any order")


def _record(
    given: fx.GraphModule, quantised: fx.GraphModule, sites: Sites, solved: Solved, split: Split
) -> Quantisation:
    layers = []
    for layer in sites.layers.values():
        precision: Precision = "int8" if layer.bits == 8 else "W4A8"
        error, widened = solved.layers[layer.name].error, solved.widenings.get(layer.name)
        layers.append(LayerPrecision(layer.name, precision, "", error, widened))
    layers += [LayerPrecision(name, "float32", why) for name, why in sites.floating.items()]
    order = {str(n.target): i for i, n in enumerate(given.graph.nodes) if n.op == "call_module"}
    layers.sort(key=lambda layer: order.get(layer.name, len(order)))
    found = _fidelity(given, quantised, split.heldout) if split.heldout else None
    return Quantisation(
        tuple(layers), len(solved.grids), sites.others, _notes(solved, split), found, split.why
    )


def _fidelity(given: fx.GraphModule, made: fx.GraphModule, batches: Sequence[Batch]) -> Fidelity:
    try:
        return fidelity((answer(given, b, BEFORE), answer(made, b, AFTER)) for b in batches)
    except InputError as error:
        raise ConversionError(f"the quantised network cannot be judged: {error}") from error


def _notes(solved: Solved, split: Split) -> tuple[str, ...]:
    notes = []
    images = image_count(split.fit)
    if images < FEW:
        notes.append(f"{images} images to calibrate by are few: a few hundred give better scales")
    if solved.dead:
        count = sum(solved.dead.values())
        names = ", ".join(f"'{name}'" for name in list(solved.dead)[:3])
        notes.append(
            f"{count} channel(s) of {len(solved.dead)} activation(s) ({names}) are zero on all "
            "calibration images: they take the median scale of the others"
        )
    return tuple(notes)
