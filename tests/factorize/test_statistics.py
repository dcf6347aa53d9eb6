import pytest
import torch
from nets import images
from torch import nn

from sepify.factorize.statistics import MomentSums, extract_patches

CONVS = {
    "plain": dict(kernel_size=3),
    "padded": dict(kernel_size=3, padding=1),
    "stride": dict(kernel_size=3, padding=1, stride=2),
    "uneven": dict(kernel_size=(3, 5), padding=(2, 1), stride=(2, 1)),
    "dilated": dict(kernel_size=3, padding=2, dilation=2),
    "same, even kernel": dict(kernel_size=4, padding="same"),
    "same, dilated": dict(kernel_size=(2, 3), padding="same", dilation=(1, 2)),
    "valid": dict(kernel_size=3, padding="valid"),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "replicate": dict(kernel_size=3, padding=2, padding_mode="replicate"),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
    "reflect, same": dict(kernel_size=4, padding="same", padding_mode="reflect"),
}


@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS.keys())
@torch.no_grad()
def test_patches_times_the_kernel_are_the_convolution(options):
    conv = nn.Conv2d(3, 4, bias=False, **options)
    x = images(2)
    wanted = conv(x)
    patches = extract_patches(x, conv)
    given = (patches @ conv.weight.flatten(1).T).reshape(2, *wanted.shape[2:], 4).movedim(3, 1)
    torch.testing.assert_close(given, wanted)


@torch.no_grad()
def test_moments_are_those_of_all_batches_together():
    conv = nn.Conv2d(3, 4, 3, padding=1)
    x = images(8) + 5  # far from zero mean
    sums = MomentSums(conv)
    for part in x.split([3, 1, 4]):
        sums.add(part, conv(part))
    moments = sums.moments()
    patches = extract_patches(x, conv).double()
    outputs = conv(x).movedim(1, 3).reshape(-1, 4).double()
    torch.testing.assert_close(
        moments.covariance, torch.cov(patches.T, correction=0), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(moments.patch_mean, patches.mean(0), rtol=1e-5, atol=1e-6)
    centred = outputs - outputs.mean(0)
    assert moments.power == pytest.approx(float(centred.square().sum(1).mean()), rel=1e-5)
    assert moments.positions == 8 * 12 * 12
    assert moments.error(conv.weight) < 1e-6
    assert moments.error(torch.zeros_like(conv.weight)) == pytest.approx(1)
    torch.testing.assert_close(moments.bias(conv.weight), conv.bias.double(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_error_is_the_relative_squared_output_error():
    conv, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3, bias=False)
    x = images(4)
    sums = MomentSums(conv)
    sums.add(x, conv(x))
    moments = sums.moments()
    approximation = other(x) + moments.bias(other.weight).float()[:, None, None]
    wanted = conv(x)
    spread = wanted - wanted.mean((0, 2, 3), keepdim=True)
    measured = float((wanted - approximation).square().sum() / spread.square().sum())
    assert moments.error(other.weight) == pytest.approx(measured, rel=1e-4)
