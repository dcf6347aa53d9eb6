"""What comes out of `convert` is an ordinary network: what can be done with it afterwards."""

import copy
import io
import pickle

import pytest
import torch
from nets import Plain, Residual, images, relative_error, seeded
from torch import nn
from torch.export import Dim

import sepify

pytestmark = pytest.mark.filterwarnings("ignore")
NETWORKS = [Plain, Residual]


@pytest.fixture(params=NETWORKS)
def pair(request):
    model = seeded(request.param())
    return model, sepify.convert(model, rank=2, solver=sepify.Solver(method="svd"))


def test_untouched_parameters_keep_name_value_and_whether_they_are_trained():
    model = seeded(Residual())
    model.bn1.weight.requires_grad_(False)
    model.conv2.weight.requires_grad_(False)
    small = sepify.convert(model, keep=["stem"], solver=sepify.Solver(method="svd"))
    kept, ours = dict(model.named_parameters()), dict(small.named_parameters())
    for name in ("stem.weight", "stem.bias", "bn1.weight", "bn1.bias", "bn2.weight"):
        assert torch.equal(ours[name], kept[name])
        assert ours[name].requires_grad == kept[name].requires_grad
    assert type(small.get_submodule("bn1")) is nn.BatchNorm2d
    assert small.get_submodule("stem").padding == (1, 1)
    assert not ours["conv2.depthwise.weight"].requires_grad
    assert ours["conv1.pointwise.weight"].requires_grad


def test_training_mode_moves_batchnorm_and_evaluation_mode_does_not(pair):
    _, small = pair
    mean = small.bn1.running_mean.clone()
    small(images())
    assert torch.equal(small.bn1.running_mean, mean)
    small.train()
    assert all(module.training for module in small.modules())
    trained = small(images())
    assert not torch.equal(small.bn1.running_mean, mean)
    assert small.bn1.num_batches_tracked == 1
    small.eval()
    assert not torch.allclose(small(images()), trained)


def test_batchnorm_in_training_is_that_of_the_original():
    model = seeded(Residual())
    plan = sepify.plan(model, rank=None, architecture=sepify.Architecture(costlier=True))
    exact = sepify.convert(model, plan=plan, solver=sepify.Solver(method="svd")).train()
    model.train()
    for seed in range(3):
        x = images(6, seed=seed)
        assert relative_error(exact(x).detach(), model(x).detach()) < 1e-4
    assert torch.allclose(exact.bn2.running_mean, model.bn2.running_mean, atol=1e-5)
    assert torch.allclose(exact.bn2.running_var, model.bn2.running_var, atol=1e-5)


@pytest.mark.parametrize(("count", "size"), [(1, 12), (7, 12), (2, 9), (3, 33)])
def test_any_batch_and_image_size(pair, count, size):
    model, small = pair
    x = images(count, size=size)
    assert small(x).shape == model(x).shape


def test_gradients_reach_every_parameter_and_a_step_lowers_the_loss(pair):
    _, small = pair
    small.train()
    optimiser = torch.optim.SGD(small.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = small(images(8)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.autograd.gradcheck(
        small.double().eval(), images(1, size=4).double().requires_grad_()
    )


def test_pickle_torch_save_and_deepcopy(pair):
    _, small = pair
    stream = io.BytesIO()
    torch.save(small, stream)
    stream.seek(0)
    for copied in (
        torch.load(stream, weights_only=False),
        pickle.loads(pickle.dumps(small)),
        copy.deepcopy(small),
    ):
        assert torch.equal(copied(images(3)), small(images(3)))
        copied.train()(images())


def test_script_and_trace(pair):
    _, small = pair
    x = images(3, size=16)
    for made in (torch.jit.script(small), torch.jit.trace(small, images())):
        assert torch.allclose(made(x), small(x), atol=1e-5)
    scripted = torch.jit.script(small).train()
    assert scripted.bn1.training


def test_export_with_a_dynamic_batch(pair):
    _, small = pair
    program = torch.export.export(small, (images(2),), dynamic_shapes=({0: Dim.DYNAMIC},))
    assert torch.allclose(program.module()(images(5)), small(images(5)), atol=1e-6)


def test_the_state_dict_fits_the_plan_on_a_fresh_original(pair, tmp_path):
    model, small = pair
    sepify.save_plan(small.meta["sepify"].plan, tmp_path / "plan.json")
    torch.save(small.state_dict(), tmp_path / "state.pt")
    fresh = sepify.convert(
        seeded(type(model)(), seed=5),
        plan=sepify.load_plan(tmp_path / "plan.json"),
        solver=sepify.Solver(method="svd"),
    )
    assert not torch.equal(fresh(images()), small(images()))
    fresh.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(fresh(images()), small(images()))


def test_that_hooks_are_not_kept_is_said():
    model = seeded(Plain())
    model.conv1.register_forward_hook(lambda module, inputs, output: None)
    notes = sepify.convert(model, solver=sepify.Solver(method="svd")).meta["sepify"].notes
    assert any("hooks" in note and "'conv1'" in note for note in notes)


def test_half_precision_and_channels_last():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        small = sepify.convert(seeded(Plain()).to(dtype), solver=sepify.Solver(method="svd"))
        assert small(images().to(dtype)).dtype == dtype
    model = seeded(Plain()).to(memory_format=torch.channels_last)
    x = images().to(memory_format=torch.channels_last)
    small = sepify.convert(model, example_inputs=x, solver=sepify.Solver(method="svd"))
    assert relative_error(small(x).detach(), small(images()).detach()) < 1e-5
