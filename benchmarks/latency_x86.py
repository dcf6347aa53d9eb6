"""Latency on this x86 CPU: torch eager, onnxruntime and sepify's compiled network, side by side.

    python benchmarks/latency_x86.py --threads 1 --networks demo sep-resnet18 --rounds 60

Batch 1, float32, random weights. The contenders take turns within one process, so that whatever
else the machine does hits all of them; judge by the ratios. One thread count a run: onnxruntime and
TVM fix theirs when they start. Prints tables, writes benchmarks/out/latency_x86-<threads>t.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

OUT = Path(__file__).parent / "out"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60, help="calls of each contender")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--target", default="native")
    parser.add_argument("--tune", help="for the operators without an own kernel: 500, 10min, ...")
    return parser.parse_args()


def main() -> None:
    """Measure all networks, print a table for each, write the JSON."""
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = os.environ["TVM_NUM_THREADS"] = str(options.threads)
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(options.threads)
    results = []
    for name in options.networks:
        torch.manual_seed(0)
        model, shape = NETWORKS[name]()
        x = torch.rand(shape)
        with torch.inference_mode():
            contenders, facts = prepare(model.eval(), x, options)
            times = interleave(contenders, options.rounds)
        rows = summarise(times)
        results.append({"network": name, "input": shape, **facts, "contenders": rows})
        show(name, facts, rows)
    OUT.mkdir(exist_ok=True)
    path = OUT / f"latency_x86-{options.threads}t.json"
    document = {"threads": options.threads, "rounds": options.rounds, "results": results}
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"\nwrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def prepare(model, x, options):
    """Callables by name, and what is worth knowing about the compiled network."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import sepify.compiling

    with FlopCounterMode(display=False) as counter:
        want = model(x)
    compiled = sepify.compiling.compile(model, x, options.target, tune=options.tune)
    contenders: dict[str, Callable[[], object]] = {"torch eager": lambda: model(x)}
    session = onnx_session(model, x, options.threads)
    if session is not None:
        feed = {session.get_inputs()[0].name: x.numpy()}
        error = abs(session.run(None, feed)[0] - want.numpy()).max() / abs(want.numpy()).max()
        assert error < 1e-4, f"onnxruntime computes something else: {error}"
        contenders["onnxruntime"] = lambda: session.run(None, feed)
    contenders["sepify"] = lambda: compiled(x)
    facts = {
        "macs": counter.get_total_flops() // 2,
        "compile_seconds": compiled.metadata.seconds,
        "max_relative_error": compiled.metadata.max_relative_error,
        "kernels": compiled.metadata.kernels,
        "torch": torch.__version__,
        **compiled.metadata.versions,
    }
    return contenders, facts


def onnx_session(model, x, threads: int):
    """The model in onnxruntime, or None if that is not installed."""
    try:
        import onnxruntime
        import torch
    except ImportError:
        print("onnxruntime is not installed: left out", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def interleave(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call; every round calls each contender, several times if it is quick."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        for _ in range(5):
            call()
    for _ in range(rounds):
        for name, call in contenders.items():
            call()  # the caches were the previous contender's
            started = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - started) * 1e3)
    return times


def summarise(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Minimum, median and spread (10th to 90th percentile) in ms, and the ratio of each to the
    fastest other contender's."""
    rows = {}
    for name, values in times.items():
        ordered = sorted(values)
        tenth = len(ordered) // 10
        others = [times[other] for other in times if other != name]
        rows[name] = {
            "min_ms": ordered[0],
            "median_ms": statistics.median(ordered),
            "p10_ms": ordered[tenth],
            "p90_ms": ordered[-1 - tenth],
            "min_ratio": ordered[0] / min(min(other) for other in others),
            "median_ratio": statistics.median(ordered)
            / min(statistics.median(other) for other in others),
        }
    return rows


def show(name: str, facts: dict, rows: dict[str, dict[str, float]]) -> None:
    """Print one network's table."""
    print(
        f"\n{name}: {facts['macs'] / 1e6:.1f} M MACs, "
        f"compiled in {facts['compile_seconds']:.1f} s, "
        f"relative error {facts['max_relative_error']:.1e}, kernels {facts['kernels']}"
    )
    print(f"  {'ms':12s} {'min':>8s} {'median':>8s} {'p10':>8s} {'p90':>8s}  min / fastest other")
    for contender, row in rows.items():
        numbers = " ".join(f"{row[k]:8.3f}" for k in ("min_ms", "median_ms", "p10_ms", "p90_ms"))
        print(f"  {contender:12s} {numbers}  {row['min_ratio']:.2f}")


# --- networks ----------------------------------------------------------------------------------


def separable(model):
    """Every 3x3 convolution with more than 3 input channels as depthwise + pointwise, rank 1."""
    from torch import nn

    for name, child in model.named_children():
        plain = isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3) and child.groups == 1
        if plain and child.in_channels > 3:
            channels, bias = child.in_channels, child.bias is not None
            depthwise = nn.Conv2d(
                channels, channels, 3, child.stride, 1, groups=channels, bias=False
            )
            pointwise = nn.Conv2d(channels, child.out_channels, 1, bias=bias)
            setattr(model, name, nn.Sequential(depthwise, pointwise))
        else:
            separable(child)
    return model


def demo():
    """The network that ships with the package, untrained."""
    from sepify.demo.network import DemoResNet

    return DemoResNet(), (1, 1, 28, 28)


def resnet18():
    """ResNet-18 (He et al. 2016)."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Identity()
            if stride > 1:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            y = self.norm1(self.conv1(x)).relu()
            return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()

    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for outputs in (64, 128, 256, 512):
        layers += [Block(channels, outputs, 1 + (outputs > 64)), Block(outputs, outputs, 1)]
        channels = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*layers), (1, 3, 224, 224)


def mobilenet_v1():
    """MobileNet v1 (Howard et al. 2017): standard stem, 13 depthwise + pointwise pairs."""
    from torch import nn

    def layer(channels: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list:
        conv = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    layers, channels = layer(3, 32, 3, 2), 32
    for outputs in (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024):
        stride = 2 if outputs > channels > 32 else 1  # every widening but the first
        layers += layer(channels, channels, 3, stride, channels) + layer(channels, outputs, 1, 1)
        channels = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]
    return nn.Sequential(*layers), (1, 3, 224, 224)


def of(network: Callable, change: Callable) -> Callable:
    """The network, changed."""

    def make():
        model, shape = network()
        return change(model), shape

    return make


NETWORKS = {
    "demo": demo,
    "sep-demo": of(demo, separable),
    "sep-resnet18": of(resnet18, separable),
    "resnet18": resnet18,
    "mobilenet-v1": mobilenet_v1,
}

if __name__ == "__main__":
    main()
