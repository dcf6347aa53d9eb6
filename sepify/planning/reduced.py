"""The MobileNet paper's two global multipliers: fewer channels everywhere, smaller images."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, fx, nn

from sepify.capture.network import Network, require_inputs
from sepify.errors import UsageError, first_line
from sepify.graph.inputs import in_evaluation, run_in_place
from sepify.passes.base import Pass
from sepify.passes.reestimate_batchnorm import ReestimateBatchNorm
from sepify.passes.runner import run_passes
from sepify.passes.thin_channels import ThinChannels, thinning_notes
from sepify.plans.budget import OF_LOSS, Budget
from sepify.plans.costs import Cost
from sepify.plans.plan import Plan
from sepify.plans.resolution import Size, Tensors, resize_images, target_size


@dataclass(frozen=True)
class Reduced:
    """What is planned and converted in the place of the original: `network`, thinned to `width`,
    with inputs and images at `resolution` (height and width in pixels, None: as they were given).

    `before` holds the kernel of each convolution of the original, and its cost at full resolution.
    """

    network: Network
    width: float
    resolution: Size | None
    before: dict[str, tuple[tuple[int, ...], Cost]]
    notes: tuple[str, ...]


def reduce_network(
    original: Network, width: float = 1.0, resolution: float | Size | None = None
) -> Reduced:
    """`original` with both multipliers; itself where they are 1 and None.

    Where there are images, the thinned network's BatchNorm statistics are re-estimated on them.
    Raises UsageError for a width that is not above 0 and at most 1, a resolution that makes no
    sense or does not fit the network (naming the layer), or either without inputs; what
    `ThinChannels` raises.
    """
    if not 0 < width <= 1:
        raise UsageError(f"width {width:g} is no share of the channels: give one in (0, 1]")
    if width == 1 and resolution is None:
        return Reduced(original, 1.0, None, {}, ())
    inputs = require_inputs(original, "a width" if resolution is None else "a resolution")
    batches = original.batches
    before = {c.name: (c.kernel, original.costs[c.name]) for c in original.convolutions}
    size = None if resolution is None else target_size(resolution, inputs)
    if size is not None:
        inputs = resize_images(inputs, size)
        _require_size(original.graph_module, inputs, size)
        if batches is not None:
            batches = tuple(resize_images(batch, size) for batch in batches)
    graph_module, notes = original.graph_module, tuple[str, ...]()
    if width < 1:
        steps: list[Pass] = [ThinChannels(inputs, width)]
        if batches is not None and min(len(batch[0]) for batch in batches) > 1:
            steps.append(ReestimateBatchNorm(batches))
        thinned = run_passes(graph_module, steps)
        graph_module = thinned.graph_module
        notes = tuple(thinning_notes(thinned.applied[0].left_alone))
    network = Network(replace(original.captured, graph_module=graph_module), inputs, batches)
    return Reduced(network, width, size, before, notes)


def related_to_original(plan: Plan, reduced: Reduced) -> Plan:
    """`plan`, which was made for the reduced network, with the multipliers, and with kernels and
    costs before of the original."""
    decisions = tuple(
        replace(decision, kernel=kernel, before=cost)
        for decision in plan
        for kernel, cost in [reduced.before.get(decision.name, (decision.kernel, decision.before))]
    )
    return replace(plan, decisions=decisions, width=reduced.width, resolution=reduced.resolution)


def budget_for(budget: Budget, reduced: Reduced) -> Budget:
    """`budget`, which is about the original, for the reduced network. Raises UsageError for one
    that would need the original's latency or accuracy."""
    if not reduced.before or budget.quantity == "size_mb":
        return budget
    if budget.quantity in OF_LOSS:
        raise UsageError(
            f"{budget.quantity} with a width or a resolution cannot be kept: such a network is to "
            "be trained first; give a budget in macs, params or size_mb"
        )
    if not budget.limit.share:
        return budget
    if budget.quantity == "latency":
        raise UsageError("with a width or a resolution give a latency in ms, not a share")
    costs = [cost for _, cost in reduced.before.values()]
    whole = sum((c.macs or 0) if budget.quantity == "macs" else c.params for c in costs)
    return Budget(**{budget.quantity: max(2, int(budget.limit.of(whole)))})  # type: ignore[arg-type]


def _require_size(original: fx.GraphModule, inputs: Tensors, size: Size) -> None:
    """Raise UsageError, naming the layer, unless `original` runs on `inputs` of this size."""
    with in_evaluation(original) as model:
        runner = _Runner(model)
        try:
            run_in_place(runner.run, inputs)
        except Exception as error:  # the code of any layer raises what it likes
            told = first_line(error)
            raise UsageError(
                f"resolution {size[0]}x{size[1]} does not fit this network: {runner.where()} "
                f"({told}); choose one that it takes, or pool to a fixed size before that layer"
            ) from error


class _Runner(fx.Interpreter):
    """Remembers which node runs, and on what."""

    at: fx.Node | None = None

    def run_node(self, n: fx.Node) -> object:
        self.at = n
        return super().run_node(n)

    def where(self) -> str:
        if self.at is None:
            return "it fails at once"
        module = (
            self.module.get_submodule(str(self.at.target)) if self.at.op == "call_module" else None
        )
        if isinstance(module, nn.Linear):
            given = self.env.get(self.at.all_input_nodes[0])
            shape = given.shape[-1] if isinstance(given, Tensor) else "another number"
            return (
                f"the linear layer '{self.at.target}' takes {module.in_features} features and "
                f"would be given {shape}"
            )
        return f"'{self.at.target if module is not None else self.at.name}' fails"
