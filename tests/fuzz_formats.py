"""Every format that sepify reads: how a small valid file is made, what is changed in it, and how it
is read. `read` does what a command does with the file, as far as it costs no training."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from fuzz_mutations import mutate_bytes, mutate_json, mutate_lines, mutate_zip
from nets import images, seeded
from torch import nn

import sepify
from sepify.formats.pt2_read import load_exported, noted_inputs
from sepify.formats.torchscript_read import load_torchscript
from sepify.images import read_images, read_maybe_labelled, read_preparation
from sepify.planning.candidates import (
    Candidate,
    Layer,
    Measurements,
    load_measurements,
    save_measurements,
)
from sepify.planning.latency import LatencyTable, load_table, save_table
from sepify.plans.costs import Cost
from sepify.plans.forms import Keep, Separate
from sepify.storage.tensors import read_state, read_weights

SHAPE = (1, 3, 12, 12)
Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Format:
    """`make` writes a valid file or folder at a path; `files` are what is mutated in a folder, by
    pattern, the file itself where there are none; `read` reads it."""

    name: str
    suffix: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    mutate: Mutate
    files: tuple[str, ...] = ()
    needs: str | None = None  # a package


def _network() -> nn.Module:
    return seeded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten()))


def _converted() -> Any:
    return sepify.convert(
        _network(), rank=1, solver=sepify.Solver(method="svd"), example_inputs=torch.zeros(SHAPE)
    )


def _npy(path: Path) -> None:
    np.save(path, images(4).numpy())


def _npz(path: Path) -> None:
    np.savez_compressed(path, images=images(4).numpy(), labels=np.array(list("abca")))


def _picture(mode: str, **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
        picture = Image.fromarray(pixels)
        if mode == "I;16":
            picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
        elif mode != "RGB":
            picture = picture.convert(mode)
        (path / "class").mkdir(parents=True)
        picture.save(path / "class" / f"a.{options.pop('suffix')}", **options)

    return make


def _pictures(path: Path) -> object:
    return read_maybe_labelled(path, shape=SHAPE)


def _by_content(content: bytes, random: Random) -> bytes:
    return (mutate_json if content.startswith(b"{") else mutate_bytes)(content, random)


def _dataset(path: Path) -> None:
    import datasets
    from PIL import Image

    pictures = [Image.new("RGB", (12, 12), (i, i, i)) for i in range(3)]
    columns = {"image": pictures, "label": [0, 1, 0]}
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    made.save_to_disk(str(path))


def _plan(path: Path) -> None:
    plan = _converted().meta["sepify"].plan
    sepify.save_plan(plan, path)


def _read_plan(path: Path) -> None:
    from sepify.jobs.plan import diff_files

    str(diff_files(path, path))
    sepify.convert(_network(), plan=sepify.load_plan(path), example_inputs=torch.zeros(SHAPE))


def _report(path: Path) -> None:
    from report.samples import report

    report().save(path)


def _read_report(path: Path) -> None:
    str(sepify.load_report(path))


def _target(path: Path) -> None:
    value = {"name": "board", "triple": "aarch64-linux-gnu", "cpu": "cortex-a55", "cores": 4}
    path.write_text(json.dumps({**value, "features": ["+dotprod"], "lanes": 4, "registers": 32}))


def _read_target(path: Path) -> None:
    from sepify.compiling.targets import find_target, read_target

    find_target(read_target(path))


def _preparation(path: Path) -> None:
    value = {"input_size": [3, 12, 12], "crop_pct": 0.9, "interpolation": "bicubic"}
    path.write_text(json.dumps({**value, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}))


def _read_preparation(path: Path) -> None:
    from PIL import Image

    read_preparation(str(path)).of_picture(Image.new("RGB", (15, 14)), 3)


def _table(path: Path) -> None:
    save_table(LatencyTable("native", "this", 1, {"a": 1e-3, "b": 2e-3}), path)


def _measurements(path: Path) -> None:
    kept = Candidate(Keep(), Cost(100, 10, 5, 1e-3), 0.0)
    candidates = (kept, Candidate(Separate("dw-pw", 1), Cost(30, 5, 5, 1e-4), 0.1, True))
    layer = Layer(("conv1",), (8, 3, 3, 3), candidates)
    save_measurements(Measurements((layer,), "kl", 10, 40, 4), path)


def _state(path: Path) -> None:
    from torch.optim import Adam

    from sepify.distilling.checkpoint import Position, save_checkpoint

    network = _network()
    optimizer = Adam(network.parameters())
    network(torch.zeros(SHAPE)).sum().backward()
    optimizer.step()
    states = {"student": network.state_dict(), "optimizer": optimizer.state_dict()}
    identity = {"student": {"0.weight": [8, 3, 3, 3]}, "teacher": "x", "epochs": 1}
    save_checkpoint(path, Position(epoch=1, step=3), identity, states)


def _read_state(path: Path) -> None:
    from sepify.distilling.checkpoint import damaged_checkpoint, load_checkpoint

    read_state(path)
    identity = {"student": {"0.weight": [8, 3, 3, 3]}, "teacher": "x", "epochs": 1}
    _, states = load_checkpoint(path, identity)
    with damaged_checkpoint(path):
        network = _network()
        network.load_state_dict(states["student"])
        torch.optim.Adam(network.parameters()).load_state_dict(states["optimizer"])


def _weights(path: Path) -> None:
    from sepify.formats.input_note import METADATA_NAME, note_inputs
    from sepify.storage.tensors import save_weights

    note = note_inputs((torch.zeros(SHAPE),))
    save_weights(_network().state_dict(), path, {METADATA_NAME: note.to_json()})


def _torchscript(path: Path) -> None:
    from sepify.formats.torchscript_write import save_torchscript

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(_network(), torch.zeros(SHAPE))
        save_torchscript(traced, path, [SHAPE])


def _exported(path: Path) -> None:
    from sepify.formats.input_note import note_inputs
    from sepify.formats.pt2_write import save_exported

    example = (torch.zeros(SHAPE),)
    save_exported(torch.export.export(_network(), example), path, note_inputs(example))


def _read_exported(path: Path) -> None:
    noted_inputs(path)
    load_exported(path)


def _records(path: Path) -> None:
    from sepify.compiling.kernel_tuning.records import Record, Records
    from sepify.compiling.kernels.dense import DENSE
    from sepify.compiling.kernels.kind import Workload
    from sepify.compiling.kernels.knobs import Knobs
    from sepify.compiling.kernels.shapes import Conv, Window

    path.mkdir()
    records = Records(path, {"kind": "llvm"}, {"tvm": "1"})
    window = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
    for outputs in (8, 16, 32):
        workload = Workload(DENSE, Conv(1, 8, 12, 12, outputs, window, 12, 12))
        records.add(workload, Record(Knobs(4, 2, 1, 1), 1e-5, 0.8))
        records.add(workload, Record(Knobs(4, 2, 2, 1), None, None, "failed"))


def _read_records(path: Path) -> None:
    from sepify.compiling.kernel_tuning.records import Records
    from sepify.jobs.merge import merge_databases

    Records(path, {"kind": "llvm"}, {"tvm": "1"})
    merge_databases([path], path.parent / "merged")


def _metaschedule(path: Path) -> None:
    from sepify.compiling.metaschedule_files import RECORDS, WORKLOADS

    folder = path / "native"
    folder.mkdir(parents=True)
    workloads = [[str(number), "dG5V"] for number in range(3)]
    record = [[], [4.6e-05], {"kind": "llvm"}, [["TENSOR", "float32", [8, 1, 32]]]]
    for name, values in ((WORKLOADS, workloads), (RECORDS, [[n % 3, record] for n in range(5)])):
        (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values))


def _read_metaschedule(path: Path) -> None:
    from sepify.jobs.merge import merge_databases

    merge_databases([path], path.parent / "merged")


def _compiled(path: Path) -> None:
    sepify.compile(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 6, 6)).save(path)


def _read_compiled(path: Path) -> None:
    sepify.load_compiled(path)


def _sums(path: Path) -> None:
    from sepify.compiling.bundle.checksums import write_checksums

    path.mkdir()
    (path / "a").write_text("a")
    (path / "b").write_text("b")
    write_checksums(path)


def _read_sums(path: Path) -> None:
    from sepify.compiling.bundle.checksums import check_checksums

    check_checksums(path)


PICTURES = {
    "png": ("RGB", {}),
    "png-16-bit": ("I;16", {"suffix": "png"}),
    "jpg": ("RGB", {}),
    "bmp": ("RGB", {}),
    "ppm": ("RGB", {}),
    "webp": ("RGB", {}),
    "tiff": ("RGB", {"compression": "tiff_lzw"}),
}

FORMATS = (
    Format("npy", ".npy", _npy, lambda path: read_images(path), mutate_bytes),
    Format("npz", ".npz", _npz, lambda path: read_maybe_labelled(path), mutate_zip),
    *(
        Format(
            name,
            "",
            _picture(mode, **{"suffix": name, **options}),
            _pictures,
            mutate_bytes,
            ("class/*",),
        )
        for name, (mode, options) in PICTURES.items()
    ),
    Format("dataset", "", _dataset, _pictures, _by_content, ("*.json", "*.arrow"), "datasets"),
    Format("plan", ".json", _plan, _read_plan, mutate_json),
    Format("report", ".json", _report, _read_report, mutate_json),
    Format("target", ".json", _target, _read_target, mutate_json, needs="tvm"),
    Format("preprocessing", ".json", _preparation, _read_preparation, mutate_json),
    Format("latency-table", ".json", _table, load_table, mutate_json),
    Format("measurements", ".json", _measurements, load_measurements, mutate_json),
    Format("checkpoint", ".pt", _state, _read_state, mutate_zip),
    Format("safetensors", ".safetensors", _weights, read_weights, mutate_bytes),
    Format("torchscript", ".pt", _torchscript, load_torchscript, mutate_zip),
    Format("exported", ".pt2", _exported, _read_exported, mutate_zip),
    Format("records", "", _records, _read_records, mutate_lines, ("*.jsonl",)),
    Format("metaschedule", "", _metaschedule, _read_metaschedule, mutate_lines, ("*/*.json",)),
    Format("compiled", "", _compiled, _read_compiled, mutate_json, ("metadata.json",), "tvm"),
    Format("library", "", _compiled, _read_compiled, mutate_bytes, ("module.so",), "tvm"),
    Format("checksums", "", _sums, _read_sums, mutate_bytes, ("SHA256SUMS",)),
)


def available() -> tuple[Format, ...]:
    """Those whose packages are here."""
    return tuple(f for f in FORMATS if f.needs is None or importlib.util.find_spec(f.needs))
