import pytest
import torch
from nets import Plain, Residual, images, network_of, relative_error, rewritten, seeded
from torch import fx, nn

from sepify.calibration.replay import solve_in_step
from sepify.calibration.solve import solve_on_data
from sepify.errors import InputError
from sepify.factorize.factors import run_factors, run_factors_fast
from sepify.factorize.svd import factorize_svd
from sepify.graph.batches import calibration_batches
from sepify.passes.out_of_place import MakeOutOfPlace
from sepify.passes.separate import SeparateConvolutions
from sepify.planning.uniform import plan_uniform
from sepify.plans.forms import ORDERS, full_rank


def inputs_of(network: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    """What the module at `name` is given when `network` runs, by a hook: the honest way."""
    seen = []
    hook = network.get_submodule(name).register_forward_pre_hook(
        lambda module, args: seen.append(args[0].clone())
    )
    network(x)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("network", [Plain, Residual])
@torch.no_grad()
def test_the_solver_sees_what_each_network_really_computes(network):
    """Inputs as in the converted network so far, targets as in the original; in-place operations
    and values shared by both networks notwithstanding."""
    original = rewritten(fx.symbolic_trace(seeded(network())), MakeOutOfPlace())
    batches = calibration_batches([images(3, seed=1), images(2, seed=2)])
    names = ["conv1", "conv2"]
    seen = {}

    def solver(name, conv, for_each_batch):
        seen[name] = ([], [])
        for_each_batch(lambda x, y: (seen[name][0].append(x), seen[name][1].append(y)))
        return factorize_svd(conv.weight, conv.bias, "dw-pw", 1)

    factors = solve_in_step(original, names, batches, solver)
    converted = rewritten(original, SeparateConvolutions(factors))
    for name in names:
        for number, (x,) in enumerate(batches):
            inner = f"{name}.depthwise"
            torch.testing.assert_close(seen[name][0][number], inputs_of(converted, inner, x))
            conv = original.get_submodule(name)
            wanted = conv(inputs_of(original, name, x))
            torch.testing.assert_close(seen[name][1][number], wanted)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rank", [1, None])
@pytest.mark.parametrize(
    "options",
    [
        dict(padding=1, stride=2),
        dict(padding="same", dilation=2),
        dict(padding=2, padding_mode="reflect"),
    ],
)
@torch.no_grad()
def test_factors_run_as_the_rewritten_graph_does(order, options, rank):
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 5, 3, **options)))
    conv = network.get_submodule("0")
    rank = rank or full_rank((5, 3, 3, 3), order)
    factors = factorize_svd(conv.weight, conv.bias, order, rank)
    x = images()
    small = rewritten(network, SeparateConvolutions({"0": factors}))(x)
    torch.testing.assert_close(run_factors(factors, conv, x), small)
    torch.testing.assert_close(run_factors_fast(factors, conv, x), small)


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_least_squares_beats_the_svd_where_it_counts(order):
    original = fx.symbolic_trace(seeded(Residual(12)))
    batches = calibration_batches(images(64))
    plan = plan_uniform(original, (images(),), form=order, keep=["stem"])
    factors, solved = solve_on_data(network_of(original, batches), plan)
    by_svd = {
        d.name: factorize_svd(original.get_submodule(d.name).weight, None, order, 1)
        for d in plan.rewritten
    }
    unseen = images(64, seed=9)
    wanted = original(unseen)
    error = relative_error(rewritten(original, SeparateConvolutions(factors))(unseen), wanted)
    assert error < 0.8 * relative_error(
        rewritten(original, SeparateConvolutions(by_svd))(unseen), wanted
    )
    for decision in solved.rewritten:
        assert 0 < decision.error <= decision.heldout_error * 1.2
        assert decision.after.params == plan[decision.name].after.params + 12  # the solved bias


def test_same_data_same_weights():
    original = fx.symbolic_trace(seeded(Residual()))
    plan = plan_uniform(original, (images(),), rank=2)
    first, _ = solve_on_data(network_of(original, calibration_batches(images(32))), plan)
    second, _ = solve_on_data(network_of(original, calibration_batches(images(32))), plan)
    for name, factors in first.items():
        assert torch.equal(factors.depthwise, second[name].depthwise)
        assert torch.equal(factors.pointwise, second[name].pointwise)


def test_too_few_images():
    original = fx.symbolic_trace(seeded(Plain()))
    plan = plan_uniform(original, (images(),))
    with pytest.raises(InputError, match="3 calibration images are too few"):
        solve_on_data(network_of(original, calibration_batches(images(3))), plan)


def test_a_convolution_whose_output_nobody_reads():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.idle, self.conv = nn.Conv2d(3, 9, 3), nn.Conv2d(3, 9, 3)

        def forward(self, x):
            self.idle(x)
            return self.conv(x)

    original = fx.symbolic_trace(seeded(Idle()))
    assert "idle" in original.code
    plan = plan_uniform(original, (images(),))
    factors, _ = solve_on_data(network_of(original, calibration_batches(images(32))), plan)
    assert set(factors) == {"idle", "conv"}
