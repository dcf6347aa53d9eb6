"""Forms through middle channels: what they cost, which kernels suit them, their ladders."""

import copy
import itertools
import math

import pytest
import torch
from nets import images, relative_error, rewritten
from torch import fx, nn

from sepify.factorize.solvers import factorize, weight_error
from sepify.graph.convolutions import survey
from sepify.graph.maps import measure_maps
from sepify.measuring.cost import count_macs, count_params
from sepify.passes.separate import SeparateConvolutions, chains
from sepify.plans.chains import Bottleneck, Chain, LowRank, Spatial
from sepify.plans.equal_cost import FAMILIES, form_at_rank, forms_at_rank
from sepify.plans.forms import Separate

KINDS = (Bottleneck, LowRank, Spatial)
CONVS = {
    "padding": dict(kernel_size=3, padding=1),
    "none": dict(kernel_size=(3, 5)),
    "stride": dict(kernel_size=3, stride=2, padding=1),
    "uneven stride": dict(kernel_size=3, stride=(1, 2), padding=1),
    "dilation": dict(kernel_size=3, dilation=2, padding=2),
    "same, even": dict(kernel_size=(4, 2), padding="same", dilation=(1, 3)),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
}


def network_of(options: dict[str, object], bias: bool = True) -> fx.GraphModule:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, **options, bias=bias)  # type: ignore[arg-type]
    return fx.symbolic_trace(nn.Sequential(conv, nn.ReLU()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS.keys())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@torch.no_grad()
def test_with_enough_channels_it_is_the_original_function(
    kind: type[Chain], options: dict[str, object]
) -> None:
    network = network_of(options)
    conv = network.get_submodule("0")
    form = kind(kind.exact_channels(tuple(conv.weight.shape)))
    assert weight_error(form, conv.weight) < 1e-9
    assert form.is_exact(tuple(conv.weight.shape))
    assert not kind(form.channels - 1).is_exact(tuple(conv.weight.shape))
    factors = {"0": factorize(form, conv.weight, conv.bias)}
    small = rewritten(network, SeparateConvolutions(factors))
    x = images(2, 6)
    assert relative_error(small(x), network(x)) < 1e-5
    assert chains(small) == {"0": form.parts}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS.keys())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@torch.no_grad()
def test_its_cost_is_what_is_counted(kind: type[Chain], options: dict[str, object]) -> None:
    network, x = network_of(options), images(2, 6, 15)
    (convolution,) = survey(network)
    form = kind(3)
    predicted = form.cost(convolution, measure_maps(network, (x,))["0"], bias=True)
    conv = network.get_submodule("0")
    factors = {"0": factorize(form, conv.weight, conv.bias)}
    small = rewritten(network, SeparateConvolutions(factors))
    assert predicted.macs == count_macs(small, x[:1])
    assert predicted.params == count_params(small)
    standing = form.stand_in(copy.deepcopy(conv))
    assert standing(x).shape == conv(x).shape
    assert sum(p.numel() for p in standing.parameters()) == predicted.params


def test_what_does_not_suit_is_refused() -> None:
    kernel = (8, 6, 3, 3)
    assert "55 channels are too many, 54" in (Bottleneck(55).fault(kernel, "linear") or "")
    assert "style 'mobilenet'" in (Spatial(3).fault(kernel, "mobilenet") or "")
    assert Bottleneck(2).fault((8, 6, 1, 1), "linear") == "1x1: already pointwise"
    assert "one row or column" in (Spatial(2).fault((8, 6, 7, 1), "linear") or "")
    assert LowRank(8).fault((8, 6, 1, 1), "linear") is not None
    assert LowRank(6).fault((8, 6, 1, 1), "linear") is None


@pytest.mark.parametrize("kernel", [(64, 64, 3, 3), (8, 6, 3, 3), (512, 512, 3, 3), (4, 3, 5, 5)])
def test_ladders_rise_by_about_one_factor_and_stay_cheaper_than_the_kernel(
    kernel: tuple[int, ...],
) -> None:
    for kind in (Bottleneck, Spatial):
        if kind is Spatial and kernel[2:] == (3, 3):
            assert not list(kind.candidates(kernel))
            continue
        ladder = [form.step for form in kind.candidates(kernel)]
        assert ladder == sorted(set(ladder))
        assert all(b <= 3 * a for a, b in itertools.pairwise(ladder))
        weights = sum(size for size, _, _ in kind(ladder[-1]).sizes(kernel, None))
        assert weights < 1.1 * math.prod(kernel)
    assert not list(LowRank.candidates(kernel))
    assert list(LowRank.candidates((64, 64, 1, 1)))
    assert not list(Separate.candidates((64, 64, 1, 1)))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_forms_at_a_rank_cost_about_as_much_as_dw_pw(rank: int) -> None:
    network, x = network_of(CONVS["padding"]), images(2, 6)
    (convolution,) = survey(network)
    maps = measure_maps(network, (x,))["0"]
    first, *others = forms_at_rank(rank, convolution, maps)
    assert first == Separate("dw-pw", rank)
    assert any(isinstance(form, Bottleneck) for form in others)
    wanted = first.cost(convolution, maps, bias=True).macs
    for form in others:
        assert form.cost(convolution, maps, bias=True).macs <= 1.05 * wanted


def test_a_pointwise_convolution_has_no_form_at_a_rank() -> None:
    network = network_of(dict(kernel_size=1))
    (convolution,) = survey(network)
    maps = measure_maps(network, (images(2, 6),))["0"]
    assert [form_at_rank(family, 1, convolution, maps) for family in FAMILIES] == [None] * 4
    assert forms_at_rank(1, convolution, maps) == ()


@pytest.mark.parametrize(
    ("channels", "taken"),
    [(18, 16), (34, 32), (23, 24), (20, 20), (9, 8), (7, 7), (3, 3)],
)
def test_whole_vectors_where_they_are_near(channels: int, taken: int) -> None:
    network = network_of(CONVS["padding"])
    (convolution,) = survey(network)
    maps = measure_maps(network, (images(2, 6),))["0"]
    each = Bottleneck(1).cost(convolution, maps, bias=False).macs or 0
    assert Bottleneck.within(channels * each, convolution, maps) == Bottleneck(taken)
