"""What eight and four bits cost, dense and separable, step by step, beside onnxruntime's own.

    pip install -e .[bench,onnx]
    OMP_NUM_THREADS=1 python benchmarks/quantise.py --networks demo,resnet20 --ranks 0,1,2

1,024 unlabelled training images calibrate; what the recipe chooses, it chooses on calibration
images that it was not fitted to. The whole test set is scored once a row. `error` is the relative
squared error of the logits against the float32 network that was quantised; points are against it
too, with the 95 % interval of the paired difference. Rank 0 is the network as it was trained.
onnxruntime quantises statically as its documentation recommends (QDQ, u8 activations, s8 weights a
channel, the same images), and is run without graph optimisation, so that no kernel saturates.
Rows go to benchmarks/out/quantise.json, converted networks beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from image_sets import OUT
from results import outputs
from rich.console import Console
from rich.table import Table
from subjects import SUBJECTS, Subject
from torch import Tensor, nn

import sepify
from sepify.errors import FileError
from sepify.graph.grids import WeightBits
from sepify.judging.statistics import accuracy
from sepify.storage import read_json, write_json

ROWS = OUT / "quantise.json"
NAIVE = {"clip": False, "channels": False, "compensate": False, "solve": False, "strengths": (0.0,)}
STEPS = {
    "naive: min-max, a scale a tensor, to nearest": (),
    "+ scales by least squared error": ("clip",),
    "+ a scale a channel": ("clip", "channels"),
    "+ errors compensated, biases corrected": ("clip", "channels", "compensate"),
    "+ solved anew": ("clip", "channels", "compensate", "solve"),
    "+ maps between linear layers widened (ours)": (
        *("clip", "channels", "compensate", "solve", "strengths"),
    ),
}
BATCH = 250


@dataclass(frozen=True)
class Row:
    """One quantised network: top-1 of it and of the float32 one, points lost with their interval,
    the logits' error, CPU seconds."""

    subject: str
    rank: int
    bits: int
    method: str
    before: float
    after: float
    points: tuple[float, float, float]
    error: float
    seconds: float


def main() -> None:
    """Quantise, score and print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="demo,resnet20")
    parser.add_argument("--ranks", default="0,1,2")
    parser.add_argument("--bits", default="8,4")
    parser.add_argument("--only-ours", action="store_true", help="the whole recipe alone")
    options = parser.parse_args()
    console = Console(width=110, highlight=False)
    warnings.simplefilter("ignore")
    for key in options.networks.split(","):
        try:
            subject = SUBJECTS[key]()
        except FileError as error:
            console.print(f"[yellow]{key} skipped: {error}[/yellow]")
            continue
        for rank in map(int, options.ranks.split(",")):
            network = converted(key, subject, rank)
            wanted = outputs(network, subject.images.test)
            for bits in map(int, options.bits.split(",")):
                ways = list(_ways(network, subject, bits))
                ways = [way for way in ways if not options.only_ours or "(ours)" in way[0]]
                show(console, [_row(key, subject, rank, bits, wanted, *way) for way in ways])


def converted(key: str, subject: Subject, rank: int) -> nn.Module:
    """The network at a rank, refined, but for its stem; 0 is as it was trained."""
    if rank == 0:
        return subject.network
    kept = OUT / f"quantise-{key}-{rank}.pt"
    if not kept.is_file():
        small = sepify.convert(
            subject.network,
            rank=rank,
            keep=(subject.stem,),
            example_inputs=torch.clone(subject.images.test[:1]),
            calibration=subject.images.calibration,
        )
        torch.save(small, kept)
    network: nn.Module = torch.load(kept, weights_only=False)
    return network


Way = tuple[str, Callable[[], Callable[[Tensor], Tensor]]]


def _ways(network: nn.Module, subject: Subject, bits: WeightBits) -> Iterator[Way]:
    calibration = subject.images.calibration
    for name, steps in STEPS.items():
        given = {key: value for key, value in NAIVE.items() if key not in steps}
        recipe = sepify.Recipe(bits, **given)

        def quantised(recipe: sepify.Recipe = recipe) -> Callable[[Tensor], Tensor]:
            return sepify.quantize(network, calibration=calibration, recipe=recipe)

        yield name, quantised
    if bits == 8:
        yield "onnxruntime, static", lambda: _by_onnxruntime(network, calibration)


def _row(
    key: str,
    subject: Subject,
    rank: int,
    bits: int,
    wanted: Tensor,
    name: str,
    make: Callable[[], Callable[[Tensor], Tensor]],
) -> Row:
    start = time.process_time()
    made = make()
    seconds = time.process_time() - start
    with torch.inference_mode():
        given = torch.cat([made(part) for part in subject.images.test.split(BATCH)])
    labels = subject.images.labels
    assert labels is not None
    right, were = given.argmax(1) == labels, wanted.argmax(1) == labels
    change = accuracy(were, right).difference
    row = Row(
        key,
        rank,
        bits,
        name,
        100 * float(were.double().mean()),
        100 * float(right.double().mean()),
        (100 * change.value, 100 * change.low, 100 * change.high),
        float((given - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()),
        seconds,
    )
    rows = read_json(ROWS) if ROWS.is_file() else []
    same = (key, rank, bits, name)
    others = [r for r in rows if (r["subject"], r["rank"], r["bits"], r["method"]) != same]
    write_json(ROWS, [*others, asdict(row)])
    return row


def _by_onnxruntime(network: nn.Module, calibration: Tensor) -> Callable[[Tensor], Tensor]:
    """onnxruntime's static quantisation of the network, and its session."""
    import onnxruntime as ort
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from runtimes import export_onnx

    class Reader(CalibrationDataReader):
        """The calibration images, one after the other."""

        def __init__(self) -> None:
            self.images = iter(calibration.split(1))

        def get_next(self) -> dict[str, object] | None:
            """The next image, or None."""
            image = next(self.images, None)
            return None if image is None else {"x": image.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, made = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "made"))
        export_onnx(network.eval(), calibration[:1].clone(), plain)
        quant_pre_process(str(plain), str(ready))
        quantize_static(
            str(ready),
            str(made),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        settings.intra_op_num_threads = 1
        session = ort.InferenceSession(str(made), settings, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        parts = [session.run(None, {"x": image.numpy()})[0] for image in images.split(1)]
        return torch.cat([torch.from_numpy(part) for part in parts])

    return run


def show(console: Console, rows: list[Row]) -> None:
    """A table of one network at one precision."""
    if not rows:
        return
    first = rows[0]
    of = "as trained" if first.rank == 0 else f"rank {first.rank}"
    title = f"{first.subject}, {of}, W{first.bits}A8; float32 {first.before:.2f}"
    table = Table("method", "top-1", "points [95 %]", "error", "CPU s", title=title)
    for row in rows:
        value, low, high = row.points
        table.add_row(
            row.method,
            f"{row.after:.2f}",
            f"{value:+.2f} [{low:+.2f}, {high:+.2f}]",
            f"{row.error:.5f}",
            f"{row.seconds:.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
