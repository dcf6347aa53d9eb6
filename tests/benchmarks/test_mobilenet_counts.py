"""MobileNet v1 out of its twin with standard convolutions, counted against the paper."""

import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
# Howard et al. 2017, tables 4, 6 and 7: mult-adds in millions
WIDTHS = {0.75: 325, 0.5: 149, 0.25: 41}
RESOLUTIONS = {192: 418, 160: 290, 128: 186}


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(FOLDER))
    try:
        import mobilenets

        yield mobilenets
    finally:
        sys.path.remove(str(FOLDER))


def meta(network):
    """Counting needs no numbers."""
    return network.eval().to("meta")


def image(size):
    return torch.zeros(1, 3, size, size, device="meta")


def shapes(network):
    return Counter(tuple(parameter.shape) for parameter in network.parameters())


@pytest.fixture(scope="module")
def converted(benchmark):
    return benchmark.convert_mobilenet()


def test_parameter_for_parameter(benchmark, converted):
    before = benchmark.costs(meta(benchmark.MobileNet(separable=False)), image(224))
    assert before == (4_866_269_184, 4_867_293_184, 29_294_088)
    after = benchmark.costs(meta(converted), image(224))
    assert after == (567_716_352, 568_740_352, 4_231_976)
    original = meta(benchmark.MobileNet())
    assert benchmark.costs(original, image(224)) == after
    assert shapes(converted) == shapes(original)


@pytest.mark.parametrize(("size", "printed"), RESOLUTIONS.items())
def test_resolutions(benchmark, converted, size, printed):
    macs = benchmark.costs(meta(converted), image(size))[1]
    assert abs(macs / 1e6 - printed) < 1  # the paper rounds some down


@pytest.mark.skipif(find_spec("torch_pruning") is None, reason="needs the extra 'width'")
@pytest.mark.parametrize(("width", "printed"), WIDTHS.items())
def test_widths(benchmark, width, printed):
    network = benchmark.convert_mobilenet(width, 64)
    original = meta(benchmark.MobileNet(width=width))
    assert shapes(network) == shapes(original)
    macs = benchmark.costs(meta(network), image(224))[1]
    assert round(macs / 1e6) == printed
