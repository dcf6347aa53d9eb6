import pytest
import torch
from nets import Residual, images, network_of, relative_error, rewritten, seeded
from torch import fx, nn

from sepify.calibration import moments as gathering
from sepify.calibration import replay as lockstep
from sepify.calibration.moments import SplitMaps, SplitMomentSums, gather
from sepify.calibration.solve import solve_on_data
from sepify.errors import CalibrationWarning
from sepify.graph.batches import calibration_batches
from sepify.passes.separate import SeparateConvolutions
from sepify.planning.uniform import plan_uniform
from sepify.storage.tensors import is_on_disk, on_disk


def solved(batches, memory):
    original = fx.symbolic_trace(seeded(Residual(12)))
    plan = plan_uniform(original, (images(),), keep=["stem"])
    return original, *solve_on_data(network_of(original, batches), plan, memory=memory)


def test_what_does_not_fit_goes_to_files_and_changes_nothing(monkeypatch):
    moved = []
    monkeypatch.setattr(lockstep, "on_disk", lambda t: moved.append(t.numel()) or on_disk(t))
    batches = calibration_batches(images(64).split(16))
    _, roomy, _ = solved(batches, 2**30)
    assert not moved
    _, tight, plan = solved(batches, 2**20)
    assert moved
    assert "maps" not in plan["conv1"].reason
    for name, factors in roomy.items():
        assert torch.equal(factors.depthwise, tight[name].depthwise)
        assert torch.equal(factors.pointwise, tight[name].pointwise)


def test_a_tensor_on_disk_is_the_same_tensor():
    x = images().transpose(1, 2)
    y = on_disk(x)
    assert is_on_disk(y)
    assert not is_on_disk(x)
    assert torch.equal(x, y)
    assert on_disk(x[:0]).shape == x[:0].shape


def test_a_covariance_that_would_not_fit_is_not_formed():
    batches = calibration_batches(images(64))
    original, by_moments, _ = solved(batches, 2**30)
    _, by_maps, plan = solved(batches, 300_000)  # a covariance takes 2 * 8 * 108**2
    assert "on the maps of" in plan["conv1"].reason
    assert "of 64 images" in plan["conv1"].reason
    unseen = images(64, seed=9)
    with torch.no_grad():
        wanted = original(unseen)
        errors = [
            relative_error(rewritten(original, SeparateConvolutions(factors))(unseen), wanted)
            for factors in (by_moments, by_maps)
        ]
    assert errors[1] < 1.2 * errors[0]


@torch.no_grad()
def test_maps_are_kept_up_to_the_room_there_is_but_enough_to_split():
    conv = nn.Conv2d(3, 4, 3)
    x = images(32, size=12)
    each = 4 * (3 * 144 + 4 * 100)
    roomy = SplitMaps(conv, 24 * each * gathering.WORKING_COPIES)
    for part in x.split(8):
        roomy.add(part, conv(part))
    assert roomy.images == 24
    assert roomy.positions == 21 * 100
    tight = SplitMaps(conv, 0)
    tight.add(x, conv(x))
    assert tight.images == 16


def test_large_covariances_choose_the_maps():
    assert isinstance(gather(nn.Conv2d(64, 64, 3), 64, gathering.MEMORY), SplitMomentSums)
    assert isinstance(gather(nn.Conv2d(2048, 64, 3), 64, gathering.MEMORY), SplitMaps)


@torch.no_grad()
def test_sampled_positions_give_nearly_the_moments_of_all(monkeypatch):
    monkeypatch.setattr(gathering, "FEWEST_POSITIONS", 4_000)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    sampled, every = SplitMomentSums(conv, 64), SplitMomentSums(conv, 1)
    for part in images(64, size=24).split(16):
        sampled.add(part, conv(part))
        every.add(part, conv(part))
    (few, _), (all_of_them, _) = sampled.moments(), every.moments()
    assert sampled.positions == 56 * 63 < 0.2 * every.positions
    scale = all_of_them.covariance.diagonal().mean()
    difference = (few.covariance - all_of_them.covariance).abs().max()
    assert difference < 0.15 * scale  # a few standard errors, sqrt(2 / 3528) = 0.024 each
    assert difference > 0


def test_too_few_positions_are_warned_of():
    batches = calibration_batches(images(16, size=4))
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 40, 3), nn.Conv2d(40, 8, 2)))
    plan = plan_uniform(network, (images(2, size=4),))
    with pytest.warns(CalibrationWarning, match=r"few positions .* 1 \(14 for 160\)"):
        solve_on_data(network_of(network.eval(), batches), plan)


def test_progress_tells_the_steps_of_a_long_refinement():
    from sepify.calibration.refine import Refinement

    original = fx.symbolic_trace(seeded(Residual(12)))
    plan = plan_uniform(original, (images(),), keep=["stem"])
    told = []
    solve_on_data(
        network_of(original, calibration_batches(images(32))),
        plan,
        lambda what, done, total: told.append((what, done, total)),
        Refinement(steps=20, batch=16),
    )
    assert ("refining from conv1, step 10 of 20", 2, 2) in told
    assert told[-1] == ("solved", 2, 2)
