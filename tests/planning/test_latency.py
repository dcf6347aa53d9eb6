import pytest
import torch
from nets import Plain, images, seeded
from torch import fx, nn

from sepify.errors import FileError, UsageError
from sepify.graph.convolutions import survey
from sepify.graph.maps import measure_maps
from sepify.planning.candidates import Measurements, list_layers
from sepify.planning.latency import LatencyTable, load_table, measure_latencies, save_table
from sepify.plans.forms import Keep, Separate
from sepify.process.machine import this_machine
from sepify.timing.layers import _onnx_bytes, open_stopwatch


@pytest.fixture
def network():
    return fx.symbolic_trace(seeded(Plain(8)))


def measurements(network) -> Measurements:
    layers = list_layers(survey(network), measure_maps(network, (images(1),)))
    # two candidates each are enough to time
    from dataclasses import replace

    few = tuple(replace(layer, candidates=layer.candidates[:3]) for layer in layers)
    return Measurements(few, "kl", 1, 0, 4)


def test_a_table_survives_its_file_in_a_stable_order(tmp_path):
    table = LatencyTable("native", "a CPU", 1, {"b": 2e-3, "a": 1e-3})
    save_table(table, tmp_path / "table.json")
    assert load_table(tmp_path / "table.json") == table
    assert list(load_table(tmp_path / "table.json").seconds) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no sepify-latency-table"),
        ('{"format": "sepify-latency-table", "version": 7}', "version 7"),
        ('{"format": "sepify-latency-table", "version": 1, "seconds": {"a": "x"}}', "damaged"),
    ],
)
def test_files_that_are_no_tables(tmp_path, text, message):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(FileError, match=message):
        load_table(tmp_path / "table.json")


def test_timing_on_onnxruntime_is_saved_as_it_goes_and_gone_on_from(network):
    pytest.importorskip("onnxruntime")
    saved: list[LatencyTable] = []
    known = measurements(network)
    with open_stopwatch("onnxruntime") as watch:
        table, keys = measure_latencies(
            network, (images(1),), known, "onnxruntime", watch, save=saved.append
        )
    assert keys["conv2"] == "16x8x3x3 /2,2 +1,1 *1,1 g1 @12x12"
    assert len(saved) == 2
    assert saved[-1] == table
    assert table.machine == this_machine().cpu
    assert all(0 < seconds < 1 for seconds in table.seconds.values())
    assert f"{keys['conv1']}: kept" in table.seconds
    assert f"{keys['conv1']}: dw-pw at rank 1" in table.seconds
    with open_stopwatch("onnxruntime") as watch:
        again, _ = measure_latencies(
            network, (images(1),), known, "onnxruntime", watch, saved[0], saved.append
        )
    assert len(saved) == 3
    for key, seconds in saved[0].seconds.items():
        assert again.seconds[key] == seconds


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 5), padding="same", dilation=2),
        nn.Conv2d(4, 6, 3, padding="valid", bias=False),
    ],
)
def test_what_onnxruntime_is_given_computes_what_torch_does(conv):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = images(1, channels=4)
    for form in (Keep(), Separate("dw-pw", 2), Separate("pw-dw", 1)):
        module = form.stand_in(conv).eval()
        session = onnxruntime.InferenceSession(_onnx_bytes(module, x))
        (given,) = session.run(None, {"x": x.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(given), module(x), atol=1e-5)
        assert given.shape == conv(x).shape


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nativ", "unknown target 'nativ'; did you mean native"),
        ("raspberry-pi-4", "not this machine's: name a board to time it on, --device HOST:PORT"),
    ],
)
def test_targets_that_this_machine_is_not(target, message):
    pytest.importorskip("tvm")
    with pytest.raises(UsageError, match=message), open_stopwatch(target):
        pass


@pytest.mark.slow
def test_timing_on_tvm(network):
    pytest.importorskip("tvm")
    with open_stopwatch("native") as watch:
        table, keys = measure_latencies(
            network, (images(1),), measurements(network), "native", watch
        )
    assert table.target == "native"
    assert 0 < table.seconds[f"{keys['conv2']}: kept"] < 1
