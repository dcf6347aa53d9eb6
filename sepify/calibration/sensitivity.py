"""What each candidate for a convolution would do to the network's outputs: estimated for all of
them by one backward pass, or measured by running the rest of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.calibration.blocks import computing_nodes
from sepify.calibration.following import Values
from sepify.calibration.output_loss import OutputLoss, Outputs, output_tensors
from sepify.calibration.replay import run_node
from sepify.errors import ConversionError, first_line
from sepify.factorize.factors import Factors
from sepify.factorize.statistics import extract_patches
from sepify.graph.batches import Batch, image_count
from sepify.process.progress import Progress

Call = tuple[str, Tensor, Tensor]  # of a convolution: its name, its input, a probe at its output


@torch.no_grad()
def original_outputs(network: nn.Module, batches: Sequence[Batch]) -> list[Outputs]:
    """The tensors that `network` returns for each batch."""
    return [output_tensors(network(*batch)) for batch in batches]


def estimate_damage(
    network: fx.GraphModule,
    candidates: Mapping[str, Sequence[Factors]],
    batches: Sequence[Batch],
    loss: OutputLoss,
    progress: Progress,
    seed: int = 0,
) -> dict[str, list[float]]:
    """The second-order estimate of the loss that each candidate alone causes.

    With v the random output gradient of `OutputLoss.cotangents` and G_i = d(v . output)/dW its
    gradient to a convolution's kernel for image i, replacing W by W + D moves the output by about
    <G_i, D> along v, and so the loss is about E_i <G_i, D>^2 / 2: the Fisher information's
    quadratic form, exact in D, not only its diagonal. One backward pass in all; every candidate
    then costs one product with G_i.
    """
    generator = torch.Generator().manual_seed(seed)
    convs = {name: network.get_submodule(name) for name in candidates}
    totals = {name: torch.zeros(len(given)) for name, given in candidates.items()}
    for number, batch in enumerate(batches):
        progress("estimating every candidate", number, len(batches))
        with _probed(convs) as calls, torch.enable_grad():
            outputs = output_tensors(network(*batch))
            directions = loss.cotangents(tuple(y.detach() for y in outputs), generator)
            along = sum((v * y).sum() for v, y in zip(directions, outputs, strict=True))
            assert isinstance(along, Tensor)
            gradients = _gradients(along, [probe for _, _, probe in calls])
        moved = {name: torch.zeros(len(batch[0]), len(given)) for name, given in candidates.items()}
        for (name, given, _), gradient in zip(calls, gradients, strict=True):
            moved[name] += _moved(convs[name], candidates[name], given, gradient).cpu()
        for name, distances in moved.items():
            totals[name] += distances.square().sum(0) / 2
    images = image_count(batches)
    return {name: (total / images).tolist() for name, total in totals.items()}


def measure_damage(
    network: fx.GraphModule,
    base: Mapping[str, Factors],
    candidates: Mapping[str, Sequence[Factors | None]],
    batches: Sequence[Batch],
    wanted: Sequence[Outputs],
    loss: OutputLoss,
    progress: Progress,
) -> tuple[float, dict[str, list[float]]]:
    """The loss of `network` with `base` in place of the convolutions that it names, and that with
    one layer more replaced by each of its candidates (None: by the original convolution).

    `wanted` are the original's outputs. Nothing before the layer is run again for a candidate.
    """
    replay = Replay(network)
    whole, totals = 0.0, {name: [0.0] * len(given) for name, given in candidates.items()}
    for number, (batch, right) in enumerate(zip(batches, wanted, strict=True)):
        progress("measuring candidates", number, len(batches))
        for name, values, at in replay.stops(batch, base, candidates):
            for index, candidate in enumerate(candidates[name]):
                changed = {key: value for key, value in base.items() if key != name}
                if candidate is not None:
                    changed[name] = candidate
                given = replay.outputs(values, at, changed)
                totals[name][index] += float(loss.per_image(right, given).sum())
        given = replay.outputs(replay.start(batch), 0, base)
        whole += float(loss.per_image(right, given).sum())
    images = image_count(batches)
    return whole / images, {name: [t / images for t in sums] for name, sums in totals.items()}


class Replay:
    """Runs a graph node by node, with factors in place of convolutions, from any node on."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.interpreter = fx.Interpreter(network)
        self.nodes = computing_nodes(network.graph)
        self.inputs = [node for node in network.graph.nodes if node.op == "placeholder"]
        (self.result,) = next(n for n in network.graph.nodes if n.op == "output").args
        order = {node: index for index, node in enumerate(self.nodes)}
        self.dying: list[list[fx.Node]] = [[] for _ in self.nodes]
        for node in (*self.inputs, *self.nodes):
            users = [order.get(user, len(self.nodes)) for user in node.users]
            last = max(users, default=order.get(node, len(self.nodes)))
            if last < len(self.nodes):
                self.dying[last].append(node)

    def start(self, batch: Batch) -> Values:
        """The values of the inputs; an optional one that is not given keeps its default."""
        defaults = [node.args[0] if node.args else None for node in self.inputs]
        return dict(zip(self.inputs, [*batch, *defaults[len(batch) :]], strict=True))

    @torch.no_grad()
    def step(self, values: Values, index: int, factors: Mapping[str, Factors]) -> None:
        """Run one node, and drop what nobody needs any more."""
        node = self.nodes[index]
        values[node] = run_node(self.interpreter, node, values, factors)
        for used in self.dying[index]:
            values.pop(used, None)

    def stops(
        self, batch: Batch, factors: Mapping[str, Factors], names: Mapping[str, object]
    ) -> Iterator[tuple[str, Values, int]]:
        """Run through, pausing before the first call of each module in `names`: its name, the
        values there and the node's number."""
        values, left = self.start(batch), set(names)
        for index, node in enumerate(self.nodes):
            if not left:
                return
            if node.op == "call_module" and str(node.target) in left:
                left.discard(str(node.target))
                yield str(node.target), values, index
            self.step(values, index, factors)

    def outputs(self, values: Values, at: int, factors: Mapping[str, Factors]) -> Outputs:
        """The network's outputs from the `values` before node `at`, which are left as they are."""
        values = dict(values)
        for index in range(at, len(self.nodes)):
            self.step(values, index, factors)
        return output_tensors(fx.map_arg(self.result, values.__getitem__))


@contextmanager
def _probed(convs: Mapping[str, nn.Module]) -> Iterator[list[Call]]:
    """Inside, each call of a convolution adds zeros to its output that a gradient can be taken of;
    the calls are listed."""
    calls: list[Call] = []

    def note(name: str, _module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        probe = torch.zeros_like(output, requires_grad=True)
        calls.append((name, (args[0] if args else kwargs["input"]).detach(), probe))
        return output + probe

    hooks = [
        conv.register_forward_hook(partial(note, name), with_kwargs=True)
        for name, conv in convs.items()
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _gradients(along: Tensor, probes: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of `along` to each of `probes`; zeros where it does not depend on one."""
    if not along.requires_grad:
        return [torch.zeros_like(probe) for probe in probes]
    try:
        found = torch.autograd.grad(along, probes, allow_unused=True)
    except RuntimeError as error:
        cause = first_line(error)
        raise ConversionError(
            f"the network cannot be planned for a budget, since it has no derivative: {cause}"
        ) from error
    return [
        torch.zeros_like(probe) if gradient is None else gradient
        for probe, gradient in zip(probes, found, strict=True)
    ]


@torch.no_grad()
def _moved(
    conv: nn.Module, candidates: Sequence[Factors], inputs: Tensor, gradient: Tensor
) -> Tensor:
    """<G_i, D> for each image and candidate, (B, K), the change of the bias included.

    inputs (B, M, H, W), gradient (B, N, H', W') of v . output to the convolution's output.
    """
    assert isinstance(conv, nn.Conv2d)
    flat = gradient.float().flatten(2)  # (B, N, P)
    patches = extract_patches(inputs.float(), conv).reshape(len(inputs), flat.shape[2], -1)
    to_kernel = torch.bmm(flat, patches).flatten(1)  # G_i, (B, N*M*kh*kw)
    to_bias = flat.sum(2)
    old_bias = torch.zeros_like(to_bias[0]) if conv.bias is None else conv.bias.float()
    columns = []
    for factors in candidates:
        new_bias = torch.zeros_like(old_bias) if factors.bias is None else factors.bias.float()
        change = (factors.kernel().float() - conv.weight.float()).flatten()
        columns.append(to_kernel @ change + to_bias @ (new_bias - old_bias))
    return torch.stack(columns, 1)
