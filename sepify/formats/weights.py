"""A conversion as its weights alone, and the way back: the plan on a fresh original, then these."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from sepify.conversion import convert
from sepify.errors import FidelityWarning, FileError, UntrainedWarning
from sepify.formats.input_note import METADATA_NAME, InputNote
from sepify.plans.file import load_plan
from sepify.plans.plan import Plan
from sepify.process.lock import one_at_a_time
from sepify.storage.tensors import read_weights, save_weights


def write_model(
    graph_module: fx.GraphModule, path: Path, inputs: tuple[Tensor, ...], note: InputNote
) -> str:
    """Save the weights with `note` in the header; how to load them. Raises FileError."""
    save_weights(distinct_tensors(graph_module), path, {METADATA_NAME: note.to_json()})
    return "weights alone: load them with sepify.load_weights(original, plan, file)"


@one_at_a_time()
def load_weights(
    model: nn.Module,
    plan: Plan | Path | str,
    weights: Path | str,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
) -> fx.GraphModule:
    """The conversion that `plan` (a Plan or a plan.json) and `weights` (.safetensors) describe.

    model           the original, freshly made; its own weights do not matter, and it is not changed
    example_inputs  as for `convert`, for a model that cannot be captured without

    The plan is applied to `model` and every parameter and buffer replaced by the saved one. Raises
    FileError naming the first tensor that is missing, left over or of another shape: the plan or
    the original is not the one that the file was made with. Other errors as `convert`.
    """
    if not isinstance(plan, Plan):
        plan = load_plan(plan)
    # the factors are about to be replaced: any solver will do, and this one needs no data
    factors_later = replace(plan, method="svd", batchnorm=False)
    with warnings.catch_warnings():
        for needless in (UntrainedWarning, FidelityWarning):  # of weights that are replaced
            warnings.simplefilter("ignore", needless)
        small = convert(model, plan=factors_later, example_inputs=example_inputs)
    saved = read_weights(weights)
    _add_solved_biases(small, plan, saved)
    _load(small, saved, weights)
    why = "its weights were loaded from a file"
    small.meta["sepify"] = replace(small.meta["sepify"], plan=plan, warnings=(), unjudged=why)
    return small


def distinct_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The state_dict without second names of a tensor that is used twice, each in a memory of its
    own: what safetensors can hold."""
    named: dict[str, Tensor] = {}
    seen: set[tuple[int, int, torch.Size, tuple[int, ...]]] = set()
    for name, tensor in network.state_dict().items():
        where = (tensor.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if tensor.numel() and where in seen:
            continue
        seen.add(where)
        named[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return named


def _add_solved_biases(network: fx.GraphModule, plan: Plan, saved: Mapping[str, Tensor]) -> None:
    """Least squares gives a bias to convolutions that had none; the SVD, used above, does not."""
    for decision in plan.rewritten:
        last = decision.form.parts[-1]
        conv = network.get_submodule(f"{decision.name}.{last}")
        assert isinstance(conv, nn.Conv2d)
        if conv.bias is None and f"{decision.name}.{last}.bias" in saved:
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))


@torch.no_grad()
def _load(network: fx.GraphModule, saved: Mapping[str, Tensor], path: Path | str) -> None:
    wanted = distinct_tensors(network)
    for name in saved:
        if name not in wanted:
            raise FileError(f"{path} holds '{name}', which the plan does not make in this model")
    state = network.state_dict()
    for name in wanted:
        if name not in saved:
            raise FileError(f"{path} has no '{name}', which the plan makes in this model")
        if saved[name].shape != state[name].shape:
            raise FileError(
                f"{path} holds '{name}' of shape {tuple(saved[name].shape)}; this model and plan "
                f"need {tuple(state[name].shape)}"
            )
    for name in wanted:
        state[name].copy_(saved[name])
