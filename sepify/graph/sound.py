"""Checks around a conversion: sound weights before, the same shapes and finite outputs after."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from sepify.errors import ConversionError, InputError, first_line
from sepify.graph.comparing import flat
from sepify.graph.inputs import in_evaluation, run_in_place

OTHER_CONTENTS = 3  # that are tried


def require_finite_weights(model: nn.Module) -> None:
    """Raise ConversionError naming the first parameter or buffer that holds NaN or infinity, or the
    first normalisation whose variance is not positive."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConversionError(
                f"the model's '{name}' holds NaN or infinity: a diverged training saved it?"
            )
    for name, module in model.named_modules():
        variance = getattr(module, "running_var", None)
        if isinstance(variance, Tensor) and variance.numel() and not module.training:
            least = float(variance.min()) + float(getattr(module, "eps", 0.0))
            if least <= 0:
                raise ConversionError(
                    f"the model's '{name}' has a running variance of {float(variance.min()):g}, "
                    "whose root is no number: a diverged training saved it?"
                )


def require_finite_result(model: nn.Module) -> None:
    """Raise ConversionError naming the first parameter or buffer of a converted network that holds
    NaN or infinity."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConversionError(
                f"'{name}' of the converted network would hold NaN or infinity: the model's "
                "weights, or its values on the calibration images, are too large"
            )


def require_taken(graph_module: fx.GraphModule, batches: Sequence[Sequence[Tensor]] | None) -> None:
    """Try one image of each size. Raises InputError where the network does not take it, or answers
    it with NaN."""
    kinds = {tuple((t.dtype, t.shape[1:]) for t in batch): batch for batch in batches or ()}
    for batch in kinds.values():
        count = len(batch[0])
        few = tuple(t[:2] if t.dim() and len(t) == count else t for t in batch)
        for output in flat(run_in_eval(graph_module, few)):
            if isinstance(output, Tensor) and output.isnan().any():
                raise InputError(
                    "the network answers the calibration images with NaN: are they prepared as it "
                    "was trained, and are its weights and BatchNorm statistics sound?"
                )


def run_in_eval(graph_module: fx.GraphModule, inputs: Sequence[Tensor]) -> object:
    """The output of `graph_module` in inference mode; its modes and its state are as before
    afterwards, and so are the inputs.

    Raises InputError if the model does not take inputs of these shapes and types.
    """
    with in_evaluation(graph_module) as model:
        try:
            return run_in_place(model, tuple(inputs))
        except Exception as error:  # the code of a layer that was left whole raises what it likes
            kinds = [(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in inputs]
            given = ", ".join(f"{shape} {dtype}" for shape, dtype in kinds)
            why = first_line(error)
            raise InputError(f"the model does not take an input of {given}: {why}") from error


def verify_conversion(
    before: fx.GraphModule, after: fx.GraphModule, inputs: Sequence[Tensor]
) -> None:
    """Raise ConversionError unless both give finite outputs of the same structure and shapes, but
    for outputs whose shape follows the contents of the inputs."""
    expected, given = flat(run_in_eval(before, inputs)), flat(run_in_eval(after, inputs))
    if [type(old) for old in expected] != [type(new) for new in given]:
        raise ConversionError("the converted network returns another structure of outputs")
    for number, (old, new) in enumerate(zip(expected, given, strict=True)):
        if not isinstance(old, Tensor):
            continue
        same = old.dtype == new.dtype and old.dim() == new.dim()
        same = same and (old.shape == new.shape or _follows_contents(before, inputs, number))
        if not same:
            raise ConversionError(
                f"output {number} was {tuple(old.shape)} {old.dtype} and became "
                f"{tuple(new.shape)} {new.dtype}"
            )
        if new.is_floating_point() and torch.isfinite(old).all() and not torch.isfinite(new).all():
            raise ConversionError(f"output {number} of the converted network is not finite")


def _follows_contents(model: fx.GraphModule, inputs: Sequence[Tensor], number: int) -> bool:
    """Whether other contents give an output of another shape: as many rows as are found, say."""
    generator = torch.Generator().manual_seed(0)
    shapes = {_output_shape(model, inputs, number)}
    for _ in range(OTHER_CONTENTS):
        others = [_noise_like(x, generator) if x.is_floating_point() else x for x in inputs]
        shapes.add(_output_shape(model, others, number))
    return len(shapes) > 1


def _output_shape(
    model: fx.GraphModule, inputs: Sequence[Tensor], number: int
) -> torch.Size | None:
    outputs = flat(run_in_eval(model, inputs))
    output = outputs[number] if number < len(outputs) else None
    return output.shape if isinstance(output, Tensor) else None


def _noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=generator).to(x)
    return x.mean() + x.std(correction=0) * noise
