import pytest
import torch
from nets import Plain, images, seeded
from torch import fx, nn

from sepify.calibration.output_loss import choose_loss
from sepify.errors import InputError
from sepify.graph.convolutions import survey
from sepify.graph.maps import measure_maps
from sepify.planning.candidates import list_layers
from sepify.plans.forms import Keep, Separate


class Branches(nn.Module):
    """A grouped convolution, one that nothing calls on the example, and one too small to gain."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.tiny = nn.Conv2d(1, 1, (1, 2))

    def forward(self, x):
        return self.tiny(self.grouped(x)[:, :1])


def layers_of(network, x):
    graph = fx.symbolic_trace(network)
    return {layer.names: layer for layer in list_layers(survey(graph), measure_maps(graph, (x,)))}


def test_candidates_are_cheaper_and_start_with_keep():
    layers = layers_of(seeded(Plain(16)), images(1))
    candidates = layers["conv2",].candidates
    kept = candidates[0]
    assert (kept.form, kept.damage) == (Keep(), 0.0)
    assert kept.cost.macs == 32 * 16 * 9 * 36
    # bytes: 16 x 12 x 12 in, 32 x 6 x 6 out, the weights and the bias, 4 each
    assert kept.cost.moved == 4 * (16 * 144 + 32 * 36 + 32 * 16 * 9 + 32)
    first = candidates[1]
    assert first.form == Separate("dw-pw", 1)
    assert first.cost.macs == 36 * (16 * 9 + 16 * 32)
    between = 2 * 16 * 36  # what depthwise writes and pointwise reads
    weights = 16 * 9 + 16 * 32 + 32
    assert first.cost.moved == 4 * (16 * 144 + 32 * 36 + between + weights)
    assert {c.form.family for c in candidates[1:]} == {"dw-pw", "pw-dw", "bottleneck"}
    assert all(
        c.cost.macs < kept.cost.macs or c.cost.params < kept.cost.params for c in candidates[1:]
    )


def test_why_a_layer_has_no_candidates():
    layers = layers_of(Branches(), images(1, channels=4))
    assert layers["grouped",].reason == "grouped convolution (groups=2)"
    assert layers["tiny",].reason == "no form is cheaper than the convolution"
    graph = fx.symbolic_trace(seeded(Plain()))
    uncalled = list_layers(survey(graph), {})
    assert {layer.reason for layer in uncalled} == {"not called on the example input"}


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "no floating-point tensor"),
        ([()], "no floating-point tensor"),
        ([(torch.ones(4, 2), torch.ones(3))], "a row for each image"),
        ([(torch.tensor([[1.0, float("nan")]]),)], "NaN or infinity"),
    ],
)
def test_outputs_that_nothing_can_be_planned_by(outputs, message):
    with pytest.raises(InputError, match=message):
        choose_loss(outputs)
