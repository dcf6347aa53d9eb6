"""The other runtimes, each given the same network and number of threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Run = Callable[[], Any]


def export_onnx(model: nn.Module, x: Tensor, path: Path) -> None:
    """The network for onnxruntime and OpenVINO."""
    if not path.exists():
        torch.onnx.export(
            model,
            (x,),
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["x"],
            output_names=["y"],
        )


def export_ncnn(model: nn.Module, x: Tensor, folder: Path) -> None:
    """The network for ncnn, by pnnx, float32."""
    import pnnx

    if not (folder / "ncnn.ncnn.param").exists():
        pnnx.export(model, str(folder / "ncnn.pt"), (x,), fp16=False)


def onnxruntime(model: nn.Module, x: Tensor, threads: int, folder: Path) -> Run:
    """onnxruntime's CPU provider."""
    import onnxruntime

    export_onnx(model, x, folder / "model.onnx")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), settings, providers=["CPUExecutionProvider"]
    )
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)[0]


def openvino(model: nn.Module, x: Tensor, threads: int, folder: Path) -> Run:
    """OpenVINO's CPU plugin, float32 (it would take bfloat16 where there is any)."""
    import openvino

    export_onnx(model, x, folder / "model.onnx")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(folder / "model.onnx"), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x.numpy(), shared_memory=True))

    def run() -> Any:
        request.infer()
        return request.get_output_tensor().data

    return run


def ncnn(model: nn.Module, x: Tensor, threads: int, folder: Path) -> Run:
    """ncnn with its defaults (Winograd, packed layouts) and float32 throughout."""
    import ncnn

    export_ncnn(model, x, folder)
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(folder / "ncnn.ncnn.param")) or net.load_model(
        str(folder / "ncnn.ncnn.bin")
    ):
        raise RuntimeError("ncnn cannot load what pnnx wrote")
    image = x.numpy()[0]

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        return np.array(extractor.extract("out0")[1])[None]

    return run


def inductor(model: nn.Module, x: Tensor, threads: int, folder: Path) -> Run:
    """torch.compile with weights frozen into the code."""
    import torch._inductor.config as config

    config.freezing = True
    compiled = torch.compile(model)
    return lambda: compiled(x)


PEERS: dict[str, Callable[[nn.Module, Tensor, int, Path], Run]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
    "inductor": inductor,
}
